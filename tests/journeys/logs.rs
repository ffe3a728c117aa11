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
