//! Applying a folder means its files, and those that come later; a namespace that was given holds
//! for each reading of a file.

use crate::support::{World, pipeline, sleeper};

fn named(name: &str) -> String {
    pipeline(&sleeper("a", "")).replace("name: p", &format!("name: {name}"))
}

fn names(world: &World) -> Vec<String> {
    let status = world.status();
    let pipelines = status.0["pipelines"].as_array().cloned();
    let mut names: Vec<String> = pipelines
        .unwrap_or_default()
        .iter()
        .map(|pipeline| {
            let word = |name: &str| pipeline[name].as_str().unwrap_or_default().to_owned();
            format!("{}/{}", word("namespace"), word("name"))
        })
        .collect();
    names.sort();
    names
}

#[test]
fn a_file_that_comes_into_an_applied_folder_is_applied_also_after_a_daemon_restart() {
    let world = World::new();
    std::fs::create_dir(world.path("flows")).unwrap();
    world.write("flows/one.yaml", &named("one"));
    world.ok(&["apply", "-f", "flows", "--wait"]);
    world.save("two.new", &named("two"));
    std::fs::rename(world.path("two.new"), world.path("flows/two.yaml")).unwrap();
    world.until("the new file runs", |_| {
        names(&world) == ["default/one", "default/two"]
    });
    world.kill_daemon();
    world.write("flows/three.yaml", &named("three"));
    world.start_daemon();
    world.until("so does one that came meanwhile", |_| {
        names(&world).len() == 3
    });
    // What a person took down stays down, whatever happens to its file.
    world.ok(&["delete", "two"]);
    world.write("flows/two.yaml", &(named("two") + "# touched\n"));
    world.write("flows/four.yaml", &named("four"));
    world.until("the next one runs", |_| {
        names(&world).contains(&"default/four".to_owned())
    });
    world.kill_daemon();
    world.start_daemon();
    world.until("all is settled", |status| status.settled());
    assert_eq!(
        names(&world),
        ["default/four", "default/one", "default/three"]
    );
}

#[test]
fn a_given_namespace_holds_for_files_that_name_none_and_for_every_later_edit() {
    let world = World::new();
    world.save("p.yaml", &named("one"));
    world.ok(&["-n", "prod", "apply", "-f", "p.yaml", "--wait"]);
    assert_eq!(names(&world), ["prod/one"]);
    let before = world.status();
    world.save("p.yaml", &(named("one") + "---\n" + &named("two")));
    world.until("the edit is taken over", |_| {
        names(&world) == ["prod/one", "prod/two"]
    });
    world.kill_daemon();
    world.start_daemon();
    world.save("p.yaml", &(named("one") + "---\n" + &named("three")));
    world.until("also by the next daemon", |_| {
        names(&world) == ["prod/one", "prod/three"]
    });
    assert_eq!(world.status().pid("a"), before.pid("a"));
    // Nor does a lost store move anything to another namespace.
    world.kill_daemon();
    std::fs::remove_dir_all(world.state().join("store")).unwrap();
    world.start_daemon();
    world.until("all is rebuilt", |status| status.settled());
    assert_eq!(names(&world), ["prod/one", "prod/three"]);
    assert_eq!(world.status().pid("a"), before.pid("a"));
    // What a file says for itself stands.
    let own = named("own").replace("name: own", "name: own, namespace: mine");
    world.save("own.yaml", &own);
    world.ok(&["-n", "prod", "apply", "-f", "own.yaml", "--wait"]);
    assert!(names(&world).contains(&"mine/own".to_owned()));
    let asked = world.ok(&["-n", "mine", "status"]);
    assert!(asked.contains("own") && !asked.contains("one"), "{asked}");
}
