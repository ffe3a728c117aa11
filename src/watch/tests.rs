//! Every way to save a file, and what the watch makes of it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;

use crate::manifest::{Given, Taken};
use crate::model::{ComponentSpec, Problem, ProcessSpec, Workload};

use super::worker::Message;
use super::{
    Method, OnProblem, QUIET, Source, Touches, Update, Watch, all_good, read, read_stream,
};

/// Longer than anything here takes; a failing test waits this long.
const DEADLINE: Duration = Duration::from_secs(20);

/// A rescan would hide an event that was missed.
const NEVER: Duration = Duration::from_secs(3600);

/// A directory of manifests under watch.
struct World {
    dir: tempfile::TempDir,
    watch: Watch,
    updates: UnboundedReceiver<Update>,
}

/// A manifest of one component whose argument is `arg`.
fn manifest(pipeline: &str, arg: &str) -> String {
    format!(
        "apiVersion: flowctl/v1\nkind: Pipeline\nmetadata: {{name: {pipeline}}}\nspec:\n  sources:\n    - {{id: a, command: [sleep, {arg}]}}\n"
    )
}

fn process(component: &ComponentSpec) -> &ProcessSpec {
    let Workload::Process(process) = &component.workload else {
        panic!("not a process: {component:?}");
    };
    process
}

/// What a reader of an update looks for: the arguments, or the first problem.
fn said(update: &Update) -> Result<Vec<String>, String> {
    match &update.outcome {
        Ok(parsed) => Ok(parsed
            .pipelines
            .iter()
            .flat_map(|pipeline| pipeline.components.values())
            .map(|component| process(component).args.join(" "))
            .collect()),
        Err(problems) => Err(problems.to_string()),
    }
}

impl World {
    fn new(method: Method) -> Self {
        Self::rescanning(method, NEVER)
    }

    fn rescanning(method: Method, rescan: Duration) -> Self {
        let (watch, updates) = Watch::with_rescan(method, rescan).unwrap();
        let dir = tempfile::tempdir().unwrap();
        Self {
            dir,
            watch,
            updates,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    async fn add(&self, name: &str) -> Vec<Update> {
        self.add_with(name, OnProblem::Refuse).await
    }

    /// Adds a source of which `taken` is known.
    async fn add_taken(&self, name: &str, taken: Vec<Taken>) -> Vec<Update> {
        let source = Source {
            path: self.path(name),
            given: Given::default(),
        };
        let added = self.watch.add(source, taken, OnProblem::Wait);
        added.await.unwrap()
    }

    async fn add_with(&self, name: &str, on_problem: OnProblem) -> Vec<Update> {
        let source = Source {
            path: self.path(name),
            given: Given::default(),
        };
        self.watch
            .add(source, Vec::new(), on_problem)
            .await
            .unwrap()
    }

    async fn next(&mut self) -> Update {
        timeout(DEADLINE, self.updates.recv())
            .await
            .expect("no update came")
            .expect("the watch ended")
    }

    /// Waits for the update that says `arg`; what comes before it is an earlier state.
    async fn until_arg(&mut self, arg: &str) -> Update {
        loop {
            let update = self.next().await;
            if said(&update).is_ok_and(|args| args == [arg]) {
                return update;
            }
        }
    }

    async fn until_problem(&mut self, part: &str) -> Update {
        loop {
            let update = self.next().await;
            if said(&update).is_err_and(|problem| problem.contains(part)) {
                return update;
            }
        }
    }

    /// Nothing more is said: shown by the next thing that is said being something else.
    fn is_quiet(&mut self) -> bool {
        self.updates.try_recv().is_err()
    }
}

#[tokio::test]
async fn a_saved_file_gives_its_new_pipelines() {
    let mut world = World::new(Method::Events);
    world.write("p.yaml", &manifest("p", "1"));
    let first = world.add("p.yaml").await;
    assert_eq!(said(&first[0]), Ok(vec!["1".to_owned()]));
    world.write("p.yaml", &manifest("p", "2"));
    let update = world.until_arg("2").await;
    assert_eq!(update.file, world.path("p.yaml"));
}

#[tokio::test]
async fn an_editor_that_renames_over_the_file_is_followed_again_and_again() {
    let mut world = World::new(Method::Events);
    world.write("p.yaml", &manifest("p", "0"));
    world.add("p.yaml").await;
    for round in ["1", "2", "3"] {
        world.write(".p.yaml.swp", &manifest("p", round));
        fs::rename(world.path(".p.yaml.swp"), world.path("p.yaml")).unwrap();
        world.until_arg(round).await;
    }
}

#[tokio::test]
async fn an_editor_that_keeps_a_backup_reports_no_gap() {
    let mut world = World::new(Method::Events);
    world.write("p.yaml", &manifest("p", "1"));
    world.add("p.yaml").await;
    fs::rename(world.path("p.yaml"), world.path("p.yaml~")).unwrap();
    world.write("p.yaml", &manifest("p", "2"));
    assert_eq!(said(&world.next().await), Ok(vec!["2".to_owned()]));
}

#[tokio::test]
async fn a_kubernetes_config_map_is_followed_through_its_link() {
    let mut world = World::new(Method::Events);
    for (folder, arg) in [("..one", "1"), ("..two", "2"), ("..three", "3")] {
        fs::create_dir(world.path(folder)).unwrap();
        fs::write(world.path(folder).join("p.yaml"), manifest("p", arg)).unwrap();
    }
    symlink("..one", world.path("..data")).unwrap();
    symlink("..data/p.yaml", world.path("p.yaml")).unwrap();
    world.add("p.yaml").await;
    for (folder, arg) in [("..two", "2"), ("..three", "3")] {
        symlink(folder, world.path("..data_tmp")).unwrap();
        fs::rename(world.path("..data_tmp"), world.path("..data")).unwrap();
        world.until_arg(arg).await;
    }
    fs::write(world.path("..three/p.yaml"), manifest("p", "4")).unwrap();
    world.until_arg("4").await;
}

/// Waits until nothing has been told of for a while, changes something, and waits until that is told.
async fn told(touches: &mut Touches, change: impl FnOnce()) {
    while timeout(3 * QUIET, touches.next()).await.is_ok() {}
    change();
    timeout(DEADLINE, touches.next())
        .await
        .expect("a change is told of");
}

#[tokio::test]
async fn a_file_that_somebody_else_reads_is_told_of_whatever_way_it_is_saved() {
    let world = World::new(Method::Events);
    let path = world.path("deep/notify.yaml");
    let mut touches = world.watch.touches(path.clone()).unwrap();
    let read = || fs::read_to_string(&path).unwrap();
    told(&mut touches, || fs::create_dir(world.path("deep")).unwrap()).await;
    told(&mut touches, || fs::write(&path, "1").unwrap()).await;
    // As editors do it: what is told of is the new file, never that there is none.
    told(&mut touches, || {
        fs::rename(&path, world.path("deep/notify.yaml~")).unwrap();
        fs::write(&path, "2").unwrap();
    })
    .await;
    assert_eq!(read(), "2");
    told(&mut touches, || {
        fs::write(world.path("deep/new"), "3").unwrap();
        fs::rename(world.path("deep/new"), &path).unwrap();
    })
    .await;
    assert_eq!(read(), "3");
    told(&mut touches, || fs::remove_file(&path).unwrap()).await;
    // As Kubernetes mounts it.
    for (folder, text) in [("..one", "4"), ("..two", "5")] {
        fs::create_dir(world.path(&format!("deep/{folder}"))).unwrap();
        fs::write(world.path(&format!("deep/{folder}/notify.yaml")), text).unwrap();
    }
    symlink("..one", world.path("deep/..data")).unwrap();
    told(&mut touches, || {
        symlink("..data/notify.yaml", &path).unwrap()
    })
    .await;
    assert_eq!(read(), "4");
    told(&mut touches, || {
        symlink("..two", world.path("deep/..new")).unwrap();
        fs::rename(world.path("deep/..new"), world.path("deep/..data")).unwrap();
    })
    .await;
    assert_eq!(read(), "5");
    // What somebody else writes beside it is nobody's business.
    while timeout(3 * QUIET, touches.next()).await.is_ok() {}
    fs::write(world.path("deep/other"), "6").unwrap();
    assert!(timeout(5 * QUIET, touches.next()).await.is_err());
}

#[tokio::test]
async fn a_file_that_somebody_else_reads_is_told_of_now_and_then_though_no_event_comes() {
    let world = World::rescanning(Method::Polling, Duration::from_millis(50));
    let mut touches = world.watch.touches(world.path("notify.yaml")).unwrap();
    for _ in 0..3 {
        timeout(DEADLINE, touches.next()).await.unwrap();
    }
}

#[tokio::test]
async fn a_deleted_file_is_a_problem_until_it_is_back() {
    let mut world = World::new(Method::Events);
    world.write("p.yaml", &manifest("p", "1"));
    world.add("p.yaml").await;
    fs::remove_file(world.path("p.yaml")).unwrap();
    world.until_problem("there is no such file").await;
    world.write("p.yaml", &manifest("p", "1"));
    world.until_arg("1").await;
}

#[tokio::test]
async fn a_removed_directory_is_watched_again_when_it_comes_back() {
    let mut world = World::new(Method::Events);
    let folder = world.path("a/b");
    for round in ["1", "2", "3"] {
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("p.yaml"), manifest("p", round)).unwrap();
        if round == "1" {
            world.add("a/b/p.yaml").await;
        } else {
            world.until_arg(round).await;
        }
        let edited = format!("{round}0");
        fs::write(folder.join("p.yaml"), manifest("p", &edited)).unwrap();
        world.until_arg(&edited).await;
        fs::remove_dir_all(world.path("a")).unwrap();
        world.until_problem("there is no such file").await;
    }
}

#[tokio::test]
async fn a_directory_that_is_replaced_in_one_go_is_the_one_watched() {
    let mut world = World::new(Method::Events);
    fs::create_dir(world.path("a")).unwrap();
    world.write("a/p.yaml", &manifest("p", "0"));
    world.add("a/p.yaml").await;
    for round in ["1", "2", "3"] {
        fs::remove_dir_all(world.path("a")).unwrap();
        fs::create_dir(world.path("a")).unwrap();
        world.write("a/p.yaml", &manifest("p", round));
        world.until_arg(round).await;
        world.write("a/p.yaml", &manifest("p", &format!("{round}0")));
        world.until_arg(&format!("{round}0")).await;
    }
}

#[tokio::test]
async fn a_renamed_directory_takes_its_file_away() {
    let mut world = World::new(Method::Events);
    fs::create_dir(world.path("a")).unwrap();
    world.write("a/p.yaml", &manifest("p", "1"));
    world.add("a/p.yaml").await;
    fs::rename(world.path("a"), world.path("b")).unwrap();
    world.until_problem("there is no such file").await;
    fs::rename(world.path("b"), world.path("a")).unwrap();
    world.until_arg("1").await;
    world.write("a/p.yaml", &manifest("p", "2"));
    world.until_arg("2").await;
}

#[tokio::test]
async fn a_broken_file_shows_its_line_and_heals() {
    let mut world = World::new(Method::Events);
    world.write("p.yaml", &manifest("p", "1"));
    world.add("p.yaml").await;
    let broken = manifest("p", "2").replace("command", "comand");
    world.write("p.yaml", &broken);
    let update = world.until_problem("comand").await;
    let problem = update
        .outcome
        .unwrap_err()
        .first(Some(&update.file))
        .unwrap();
    let Problem { line, column, .. } = problem;
    assert_eq!((line, column), (Some(6), Some(15)));
    for (text, part) in [("", "empty"), ("spec: [", "not valid YAML")] {
        world.write("p.yaml", text);
        world.until_problem(part).await;
    }
    world.write("p.yaml", &manifest("p", "3"));
    world.until_arg("3").await;
}

#[tokio::test]
async fn a_half_written_file_is_not_reported_before_the_writer_pauses() {
    let mut world = World::new(Method::Events);
    let whole = manifest("p", "2");
    world.write("p.yaml", &manifest("p", "1"));
    world.add("p.yaml").await;
    let mut file = fs::File::create(world.path("p.yaml")).unwrap();
    for piece in whole.as_bytes().chunks(20) {
        file.write_all(piece).unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(file);
    assert_eq!(said(&world.next().await), Ok(vec!["2".to_owned()]));
}

#[tokio::test]
async fn a_file_that_is_never_closed_is_read_once_it_pauses() {
    let mut world = World::new(Method::Events);
    world.write("p.yaml", &manifest("p", "1"));
    world.add("p.yaml").await;
    let mut file = fs::File::create(world.path("p.yaml")).unwrap();
    file.write_all(manifest("p", "2").as_bytes()).unwrap();
    world.until_arg("2").await;
    drop(file);
}

#[tokio::test]
async fn two_hundred_saves_a_second_give_few_updates_and_the_last_text() {
    let mut world = World::new(Method::Events);
    world.write("p.yaml", &manifest("p", "start"));
    world.add("p.yaml").await;
    for save in 0..200 {
        world.write("new", &manifest("p", &save.to_string()));
        fs::rename(world.path("new"), world.path("p.yaml")).unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut updates = 1;
    while said(&world.next().await) != Ok(vec!["199".to_owned()]) {
        updates += 1;
    }
    assert!(updates < 10, "{updates} updates");
}

#[tokio::test]
async fn a_comment_is_a_new_text_of_the_same_pipelines_and_a_touch_is_nothing() {
    let mut world = World::new(Method::Events);
    let text = manifest("p", "1");
    world.write("p.yaml", &text);
    let first = world.add("p.yaml").await.remove(0).outcome.unwrap();
    world.write("p.yaml", &text);
    world.write("p.yaml", &format!("# a comment\n\n{text}"));
    let update = world.next().await.outcome.unwrap();
    assert_eq!(update.pipelines, first.pipelines);
}

#[tokio::test]
async fn files_that_come_go_and_clash_in_a_directory_are_each_told_of() {
    let mut world = World::new(Method::Events);
    fs::create_dir(world.path("d")).unwrap();
    world.write("d/a.yaml", &manifest("a", "1"));
    world.write("d/b.yml", &manifest("b", "1"));
    world.write("d/notes.txt", "not a manifest");
    world.write("d/.hidden.yaml", "not: one");
    let files: Vec<_> = all_good(world.add("d").await)
        .unwrap()
        .into_iter()
        .map(|(file, _)| file)
        .collect();
    assert_eq!(files, [world.path("d/a.yaml"), world.path("d/b.yml")]);
    world.write("d/c.yaml", &manifest("c", "3"));
    assert_eq!(world.until_arg("3").await.file, world.path("d/c.yaml"));
    world.write("d/d.yaml", &manifest("a", "4"));
    let twin = world.until_problem("pipeline `a` is also in a.yaml").await;
    assert_eq!(twin.file, world.path("d/d.yaml"));
    fs::remove_file(world.path("d/a.yaml")).unwrap();
    world.until_problem("the file is gone").await;
    world.until_arg("4").await;
}

/// What whoever applies `name` has read and taken over.
fn taken(world: &World, name: &str) -> Taken {
    let file = world.path(name);
    let read = read(&file, &Given::default()).remove(0).outcome.unwrap();
    Taken {
        file,
        text: read.text,
        pipelines: read.pipelines.into_iter().map(|spec| spec.key).collect(),
    }
}

#[tokio::test]
async fn what_was_taken_over_is_not_said_again_and_edits_of_it_are() {
    let mut world = World::new(Method::Events);
    fs::create_dir(world.path("d")).unwrap();
    world.write("d/a.yaml", &manifest("a", "1"));
    world.write("d/b.yaml", &manifest("b", "1"));
    let both = vec![taken(&world, "d/a.yaml"), taken(&world, "d/b.yaml")];
    world.write("d/b.yaml", &manifest("b", "2"));
    let updates = world.add_taken("d", both).await;
    assert_eq!(updates.len(), 1, "only b was edited since it was read");
    assert_eq!(said(&updates[0]).unwrap(), ["2"]);
    world.write("d/c.yaml", &manifest("a", "3"));
    world.until_problem("pipeline `a` is also in a.yaml").await;
    world.write("d/a.yaml", &manifest("a", "4"));
    assert_eq!(world.until_arg("4").await.file, world.path("d/a.yaml"));
}

#[tokio::test]
async fn the_last_word_is_the_files_when_an_edit_that_was_undone_is_still_on_its_way() {
    let mut world = World::new(Method::Events);
    world.write("p.yaml", &manifest("p", "1"));
    let first = taken(&world, "p.yaml");
    assert!(
        world
            .add_taken("p.yaml", vec![first.clone()])
            .await
            .is_empty()
    );
    world.write("p.yaml", &manifest("p", "2"));
    world.until_arg("2").await;
    world.write("p.yaml", &manifest("p", "1"));
    let again = world.add_taken("p.yaml", vec![first]).await;
    let is_said = match again.as_slice() {
        [] => world.until_arg("1").await,
        [update] => update.clone(),
        more => panic!("{more:?}"),
    };
    assert_eq!(said(&is_said).unwrap(), ["1"]);
}

#[tokio::test]
async fn an_emptied_directory_deletes_nothing() {
    let mut world = World::new(Method::Events);
    fs::create_dir(world.path("d")).unwrap();
    world.write("d/a.yaml", &manifest("a", "1"));
    world.add("d").await;
    fs::remove_file(world.path("d/a.yaml")).unwrap();
    let mut problems = [said(&world.next().await), said(&world.next().await)];
    problems.sort();
    assert!(
        problems[0]
            .as_ref()
            .is_err_and(|p| p.contains("a.yaml: the file is gone")),
        "{problems:?}"
    );
    assert!(
        problems[1]
            .as_ref()
            .is_err_and(|p| p.contains("holds no *.yaml")),
        "{problems:?}"
    );
    world.write("d/a.yaml", &manifest("a", "1"));
    world.until_arg("1").await;
}

#[tokio::test]
async fn a_broken_file_is_refused_for_a_person_and_waited_for_at_start() {
    let mut world = World::new(Method::Events);
    world.write("p.yaml", "kind: [");
    assert!(world.add("p.yaml").await[0].outcome.is_err());
    world.write("p.yaml", &manifest("p", "1"));
    assert!(
        world.add_with("q.yaml", OnProblem::Wait).await[0]
            .outcome
            .is_err()
    );
    world.write("q.yaml", &manifest("q", "2"));
    assert_eq!(said(&world.next().await), Ok(vec!["2".to_owned()]));
}

#[tokio::test]
async fn a_broken_file_that_is_applied_stays_under_watch() {
    let mut world = World::new(Method::Events);
    world.write("p.yaml", &manifest("p", "1"));
    world.add("p.yaml").await;
    world.write("p.yaml", "kind: [");
    assert!(world.add("p.yaml").await[0].outcome.is_err());
    world.until_problem("not valid YAML").await;
    world.write("p.yaml", &manifest("p", "2"));
    world.until_arg("2").await;
}

#[tokio::test]
async fn a_removed_source_is_silent() {
    let mut world = World::new(Method::Events);
    for name in ["p.yaml", "q.yaml"] {
        world.write(name, &manifest(&name[..1], "1"));
        world.add(name).await;
    }
    world.watch.remove(world.path("p.yaml")).unwrap();
    world.write("p.yaml", &manifest("p", "2"));
    world.write("q.yaml", &manifest("q", "3"));
    assert_eq!(said(&world.next().await), Ok(vec!["3".to_owned()]));
    assert!(world.is_quiet());
}

#[tokio::test]
async fn dropped_events_make_it_read_everything_again() {
    let mut world = World::new(Method::Events);
    fs::create_dir_all(world.path("a/b")).unwrap();
    world.write("a/b/p.yaml", &manifest("p", "1"));
    world.add("a/b/p.yaml").await;
    // Nobody watches the folder that holds `a`, so no event tells of this.
    fs::rename(world.path("a"), world.path("z")).unwrap();
    let lost = notify::Event::new(notify::EventKind::Other).set_flag(notify::event::Flag::Rescan);
    for thread in world.watch.workers().threads.values() {
        let lost = Message::Event(Ok(lost.clone()));
        thread.send(lost).unwrap();
    }
    world.until_problem("there is no such file").await;
}

#[tokio::test]
async fn what_no_event_tells_of_is_found_by_looking_now_and_then() {
    let mut world = World::rescanning(Method::Events, Duration::from_millis(200));
    fs::create_dir_all(world.path("a/b")).unwrap();
    world.write("a/b/p.yaml", &manifest("p", "1"));
    world.add("a/b/p.yaml").await;
    // Nobody watches the folder that holds `a`.
    fs::rename(world.path("a"), world.path("z")).unwrap();
    world.until_problem("there is no such file").await;
    fs::rename(world.path("z"), world.path("a")).unwrap();
    world.until_arg("1").await;
}

#[tokio::test]
async fn a_real_queue_overflow_loses_no_edit() {
    let mut world = World::new(Method::Events);
    world.write("p.yaml", &manifest("p", "1"));
    world.add("p.yaml").await;
    // More events than the kernel's queue holds, faster than anyone can read them.
    let noise = world.path("noise");
    for _ in 0..40_000 {
        fs::write(&noise, "").unwrap();
    }
    world.write("p.yaml", &manifest("p", "2"));
    world.until_arg("2").await;
}

#[tokio::test]
async fn without_the_kernel_files_are_polled() {
    let mut world = World::new(Method::Polling);
    world.write("p.yaml", &manifest("p", "1"));
    world.add("p.yaml").await;
    world.write("p.yaml", &manifest("p", "2"));
    world.until_arg("2").await;
    fs::remove_file(world.path("p.yaml")).unwrap();
    world.until_problem("there is no such file").await;
}

/// Runs a test above once more where the kernel has no watch, or no watcher, left to give.
#[test]
fn where_the_kernel_has_no_watches_left_files_are_polled() {
    let unshare = |script: &str| {
        let mut command = std::process::Command::new("unshare");
        command.args(["--user", "--map-root-user", "sh", "-c", script, "sh"]);
        command.arg(std::env::current_exe().unwrap());
        command.output()
    };
    for limit in ["max_inotify_watches", "max_inotify_instances"] {
        let set = format!("echo 0 > /proc/sys/user/{limit}");
        if !unshare(&set).is_ok_and(|output| output.status.success()) {
            eprintln!("skipped: this system allows no user namespace with a {limit} of its own");
            return;
        }
        let test = "watch::tests::a_saved_file_gives_its_new_pipelines";
        let output = unshare(&format!("{set} && exec \"$1\" --exact {test}")).unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains("1 passed"),
            "{limit}: {said}"
        );
    }
}

#[tokio::test]
async fn a_pipe_is_neither_watched_nor_waited_for() {
    let world = World::new(Method::Events);
    let fifo = world.path("pipe.yaml");
    rustix::fs::mkfifoat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
    )
    .unwrap();
    let update = world.add("pipe.yaml").await.remove(0);
    assert!(said(&update).unwrap_err().contains("not a regular file"));
    // Nor is its writer waited for by one who only reads: whoever was given it reads it.
    let update = read(&fifo, &Given::default()).remove(0);
    assert!(said(&update).unwrap_err().contains("not a regular file"));
}

#[test]
fn a_stream_is_read_up_to_the_limit_and_a_large_one_is_refused() {
    let good = read_stream(
        "-",
        manifest("p", "1").as_bytes(),
        Path::new("/base"),
        &Given::default(),
    )
    .unwrap();
    assert_eq!(good.pipelines.len(), 1);
    let endless = std::io::repeat(b'#');
    let problems = read_stream("-", endless, Path::new("/base"), &Given::default()).unwrap_err();
    assert!(problems.to_string().contains("larger than 1 MiB"));
}

#[test]
fn problems_name_a_file_as_it_was_given_and_paths_are_meant_from_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("none.yaml");
    let updates = read(&missing, &Given::default());
    let text = said(&updates[0]).unwrap_err();
    assert_eq!(
        text,
        format!("{}: there is no such file", missing.display())
    );
    let file = dir.path().join("p.yaml");
    fs::write(&file, manifest("p", "1")).unwrap();
    let parsed = read(&file, &Given::default()).remove(0).outcome.unwrap();
    let component = parsed.pipelines[0]
        .components
        .values()
        .next()
        .unwrap()
        .clone();
    assert_eq!(process(&component).working_dir, dir.path());
}
