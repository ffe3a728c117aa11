//! What was written is not lost: what is deleted is kept for a while, and a failure shows its words.

use super::support::*;

/// What `logs` prints for `name`.
fn logs(world: &World, arguments: &[&str]) -> String {
    let arguments: Vec<&str> = ["logs"].iter().chain(arguments).copied().collect();
    world.ok(&arguments)
}

#[test]
fn logs_of_what_is_deleted_can_be_read_and_removed_by_name() {
    let world = World::new();
    let component = |id: &str| shell(id, &format!("echo words of {id}; exec sleep 1000"), "");
    let two = format!("{}{}", component("stays"), component("goes"));
    world.apply(&two);
    eventually("both have written", || {
        logs(&world, &[]).lines().count() == 2
    });
    // Taken out of the pipeline.
    world.apply(&component("stays"));
    let gone = |status: &Status| status.pipeline()["components"].as_array().unwrap().len() == 1;
    world.until("one is gone", gone);
    assert_eq!(logs(&world, &[]), "words of stays\n", "what is there");
    assert_eq!(logs(&world, &["goes"]), "words of goes\n");
    let listed = logs(&world, &["--deleted"]);
    assert!(
        listed.contains("/goes: ") && !listed.contains("stays"),
        "{listed}"
    );
    // Deleted as a whole.
    world.ok(&["delete", "p"]);
    let both = logs(&world, &["p"]);
    assert!(
        both.contains("words of goes") && both.contains("words of stays"),
        "{both}"
    );
    assert_eq!(logs(&world, &["stays"]), "words of stays\n");
    // Another daemon knows them as well, and so does nobody.
    world.kill_daemon();
    assert_eq!(logs(&world, &["p/goes"]), "words of goes\n");
    world.start_daemon();
    let told = world.ok(&["delete", "p", "--logs"]);
    assert!(
        told.contains("logs of ") && told.contains(" removed ("),
        "{told}"
    );
    assert_eq!(logs(&world, &["--deleted"]), "");
    world.fails(6, &["logs", "goes"]);
    assert!(!world.state().join("logs/default/p").exists());
}

#[test]
fn logs_of_what_is_deleted_go_when_their_time_is_over() {
    let mut world = World::new();
    world.set("FLOWCTL_KEEP_LOGS", "1s");
    world.apply(&shell("a", "echo words; exec sleep 1000", ""));
    eventually("it has written", || logs(&world, &["a"]) == "words\n");
    let folder = world.state().join("logs/default/p");
    assert!(folder.exists());
    world.ok(&["delete", "p"]);
    eventually("its logs are gone", || !folder.exists());
}

#[test]
fn what_fails_while_it_is_waited_for_shows_its_last_lines() {
    let world = World::new();
    let file = world.write(
        "pipeline.yaml",
        &pipeline(&shell(
            "a",
            "echo ROOT CAUSE: quota exceeded; printf 'and no newline' >&2; exit 3",
            ", restart_policy: never",
        )),
    );
    let told = world.fails(8, &["apply", "--wait", "-f", file.to_str().unwrap()]);
    assert!(told.contains("ROOT CAUSE: quota exceeded"), "{told}");
    assert!(told.contains("and no newline"), "{told}");
}

/// A pipeline of two components that have written what a search is for.
fn searched() -> World {
    let world = World::new();
    let json = r#"echo \'{"level":"info","msg":"began","status":200}\'; echo \'{"level":"error","msg":"disk full","status":500}\'"#;
    let json = json.replace("\\'", "'");
    let plain = "for n in 1 2 3 4 5; do echo request $n; done; echo WARN the disk is slow";
    let component = |id: &str, script: &str| {
        let file = world.write(&format!("{id}.sh"), &format!("{script}\nexec sleep 1000\n"));
        shell(id, &format!("sh {}", file.to_str().unwrap()), "")
    };
    let both = format!("{}{}", component("api", &json), component("worker", plain));
    world.apply(&both);
    eventually("both have written", || {
        logs(&world, &[]).lines().count() == 8
    });
    world
}

#[test]
fn lines_are_found_by_pattern_level_and_field_and_the_tail_is_of_what_was_found() {
    let world = searched();
    let found = |arguments: &[&str]| {
        let mut lines: Vec<String> = logs(&world, arguments).lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let full = r#"{"level":"error","msg":"disk full","status":500}"#;
    let slow = "WARN the disk is slow";
    assert_eq!(found(&["--grep", "disk", "--no-prefix"]), [slow, full]);
    assert_eq!(
        found(&["worker", "-g", "REQUEST [45]", "-i"]),
        ["request 4", "request 5"]
    );
    assert_eq!(found(&["worker", "-g", "request", "-v"]), [slow]);
    assert_eq!(
        found(&["worker", "-g", "request", "--tail", "2"]),
        ["request 4", "request 5"]
    );
    let around = ["worker", "-g", "request 3", "-A", "1", "-B", "1"];
    assert_eq!(found(&around), ["request 2", "request 3", "request 4"]);
    assert_eq!(found(&["--field", "status=500", "--no-prefix"]), [full]);
    assert_eq!(
        found(&["--exclude", "api", "-g", "disk", "--no-prefix"]),
        [slow]
    );
    // Without a daemon it is the same.
    world.kill_daemon();
    let output = world.run(&["logs", "--level", "warn", "--no-prefix"]);
    let mut lines: Vec<String> = text(&output.stdout).lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, [slow, full]);
    let told = text(&output.stderr);
    assert!(
        told.contains("note: 5 lines of p have no level and are not shown"),
        "{told}"
    );
}

#[test]
fn a_search_that_cannot_be_understood_says_why() {
    let world = searched();
    let told = world.fails(2, &["logs", "--grep", "a(b"]);
    assert!(
        told.contains("--grep: `a(b` is not a pattern: unclosed group"),
        "{told}"
    );
    world.fails(2, &["logs", "--level", "loud"]);
    world.fails(2, &["logs", "--field", "status"]);
    world.fails(6, &["logs", "--exclude", "nobody"]);
}

#[test]
fn a_search_goes_on_with_what_is_written_later() {
    let world = searched();
    let go = world.path("go");
    world.apply(&shell(
        "late",
        &format!(
            "echo no match; until [ -e {} ]; do sleep 0.05; done; echo other; echo it matches at last; exec sleep 1000",
            go.display()
        ),
        "",
    ));
    let arguments = ["logs", "late", "-f", "-g", "matches"];
    let mut follower = world.command(&arguments);
    let mut follower = follower
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::fs::write(&go, "").unwrap();
    let mut line = String::new();
    let mut output = std::io::BufReader::new(follower.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut output, &mut line).unwrap();
    follower.kill().unwrap();
    follower.wait().unwrap();
    assert_eq!(line, "it matches at last\n");
}

#[test]
fn the_files_that_hold_the_lines_are_named() {
    let world = searched();
    let named = logs(&world, &["worker", "--path"]);
    let read = std::fs::read_to_string(named.trim()).unwrap();
    assert!(read.contains(" stdout F request 5\n"), "{named}: {read}");
}
