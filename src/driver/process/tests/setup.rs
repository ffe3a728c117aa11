//! What a program is given, and why it could not be started.

use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use super::*;
use crate::driver::conformance::eventually_exits;
use crate::model::{Limit, ProcessSpec, SecretSource, SecretSpec};

async fn refusal(stage: &ProcessStage, spec: ComponentSpec) -> StartFailure {
    let launch = launch(spec, 1);
    let answer = stage.driver.start(&launch).await;
    let Err(DriverError::Refused(failure)) = answer else {
        panic!("{answer:?}");
    };
    let seen = sight(&stage.driver, &launch.instance).await;
    if let Some(seen) = seen {
        let Life::NotStarted { failure: kept, .. } = seen.life else {
            panic!("{seen:?}");
        };
        assert_eq!(kept, failure, "it is told the same by the directory");
    }
    assert_eq!(stage.marked(&launch), 0);
    stage.driver.forget(&launch.instance).await.unwrap();
    failure
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_failed_start_has_its_own_reason_and_says_what_to_do() {
    let stage = ProcessStage::new();
    let script = |name: &str, text: &str, mode| {
        let path = stage.path(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        path
    };
    let plain = script("plain", "#!/bin/sh\n", 0o644);
    let shapeless = script("shapeless", "echo\n", 0o755);
    let interpreter = script("interpreter", "#!/no/such/interpreter\n", 0o755);
    let long = "x".repeat(200_000);
    let with = |change: fn(&mut ComponentSpec)| {
        let mut spec = spec("fails", "sleep", &["1000"]);
        change(&mut spec);
        spec
    };
    let cases = [
        (spec("fails", "no-such-program", &[]), "ExecNotFound"),
        (spec("fails", "/no/such/program", &[]), "ExecNotFound"),
        (spec("fails", &interpreter, &[]), "InterpreterMissing"),
        (spec("fails", "", &[]), "ExecNotFound"),
        (spec("fails", &plain, &[]), "NotExecutable"),
        (spec("fails", "/", &[]), "NotExecutable"),
        (spec("fails", &shapeless, &[]), "ExecFormat"),
        (spec("fails", "sleep", &["a\0b"]), "NulByte"),
        (spec("fails", "sleep", &[&long]), "ArgumentsTooLong"),
        (
            with(|spec| {
                let blob = "x".repeat(200_000);
                spec.env.insert("BLOB".to_owned(), blob);
            }),
            "ArgumentsTooLong",
        ),
        (
            with(|spec| spec.rlimits.nofile = Some(u64::MAX)),
            "LimitNotPermitted",
        ),
        (
            with(|spec| spec.user = Some("no-such-user".to_owned())),
            "NoSuchUser",
        ),
        (
            with(|spec| spec.user = Some("0:no-such-group".to_owned())),
            "NoSuchGroup",
        ),
        (
            with(|spec| spec.env_file = vec!["/no/such/file".into()]),
            "EnvFileUnreadable",
        ),
        (
            with(|spec| {
                spec.secrets = vec![SecretSpec {
                    name: "key".to_owned(),
                    source: SecretSource::Env("FLOWCTL_NO_SUCH_VARIABLE".to_owned()),
                    container_path: None,
                    mode: 0o400,
                }];
            }),
            "SecretMissing",
        ),
        (
            with(|spec| {
                spec.secrets = vec![SecretSpec {
                    name: "../escape".to_owned(),
                    source: SecretSource::File("/etc/hostname".into()),
                    container_path: None,
                    mode: 0o400,
                }];
            }),
            "SecretNameInvalid",
        ),
        (
            with(|spec| {
                spec.workload = Workload::Process(ProcessSpec {
                    program: "sleep".to_owned(),
                    args: Vec::new(),
                    working_dir: "/no/such/dir".into(),
                });
            }),
            "WorkingDirMissing",
        ),
    ];
    for (spec, reason) in cases {
        let shown = format!("{:?} {:?}", spec.workload, spec.user);
        let foreseen = foresee(&spec, &Inheritance::of_this_process());
        let failure = refusal(&stage, spec).await;
        assert_eq!(failure.reason, reason, "{shown}: {}", failure.message);
        assert_eq!(
            foreseen,
            [failure],
            "{shown}: it is told before in the same words"
        );
    }
}

/// Runs a shell script to its end and answers what it printed.
async fn output_of(stage: &ProcessStage, spec: ComponentSpec) -> String {
    let launch = launch(spec, 1);
    stage.start(&launch).await;
    let status = eventually_exits(&stage.driver, &launch.instance).await;
    let lines = super::output::all_lines(stage, &launch.spec.id).await;
    let text: Vec<String> = lines
        .iter()
        .map(|line| String::from_utf8_lossy(&line.text).into_owned())
        .collect();
    assert_eq!(status, ExitStatus::Code(0), "{text:?}");
    text.join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_is_what_is_documented_and_nothing_else() {
    let stage = ProcessStage::new();
    let file = stage.path("file.env");
    std::fs::write(&file, "FROM_FILE=file\nBOTH=file\nFLOWCTL_TEST=file\n").unwrap();
    let mut spec = spec("environment", "env", &[]);
    spec.env_file = vec![file.into()];
    // Any variable of ours that is not passed on anyway.
    let passed = ["PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR"];
    let ours = std::env::vars().map(|(name, _)| name);
    let ours: Vec<String> = ours
        .filter(|name| !passed.contains(&name.as_str()))
        .take(1)
        .collect();
    spec.inherit_env = ours.clone();
    let number = "worker-${{ component.replica }}".to_owned();
    spec.env = [
        ("BOTH".to_owned(), "spec".to_owned()),
        ("NUMBER".to_owned(), number),
        ("FLOWCTL_INSTANCE".to_owned(), "forged".to_owned()),
    ]
    .into();
    let text = output_of(&stage, spec).await;
    let mut names: Vec<&str> = text
        .lines()
        .map(|line| line.split('=').next().unwrap())
        .collect();
    names.retain(|name| *name == "PATH" || !passed.contains(name));
    let before = names.len();
    names.retain(|name| !ours.iter().any(|known| known == name));
    assert_eq!(before - names.len(), ours.len(), "{text}");
    names.sort_unstable();
    let wanted = [
        "BOTH",
        "FLOWCTL_INSTANCE",
        "FLOWCTL_INSTANCE_FILE",
        "FLOWCTL_TEST",
        "FROM_FILE",
        "NUMBER",
        "PATH",
    ];
    assert_eq!(names, wanted);
    for line in [
        "BOTH=spec",
        "FLOWCTL_TEST=file",
        "NUMBER=worker-0",
        "FLOWCTL_INSTANCE=default.suite.environment.0.1",
    ] {
        assert!(
            text.lines().any(|printed| printed == line),
            "{line} in {text}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_starts_clean_without_descriptors_signals_or_privileges_of_ours() {
    let stage = ProcessStage::new();
    let script = "ls -l /proc/self/fd | sed -n 's/.* \\([0-9]*\\) -> \\([a-z/]*\\).*/\\1 \\2/p'
        grep -E '^(SigBlk|SigIgn|NoNewPrivs)' /proc/self/status; ulimit -n; pwd
        ps -o pid= -o pgid= -o sid= -p $$";
    let mut spec = spec("clean", "sh", &["-c", script]);
    spec.rlimits.nofile = Some(123);
    let text = output_of(&stage, spec).await;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..3], ["0 /dev/null", "1 pipe", "2 pipe"], "{text}");
    // `ls` itself opens the directory.
    assert!(lines[3].starts_with("3 /proc/"), "{text}");
    for line in [
        "SigBlk:\t0000000000000000",
        "SigIgn:\t0000000000000000",
        "NoNewPrivs:\t1",
        "123",
        "/",
    ] {
        assert!(lines.contains(&line), "{line} in {text}");
    }
    let ids: Vec<&str> = lines[lines.len() - 1].split_whitespace().collect();
    assert_eq!(ids.len(), 3, "{text}");
    assert_eq!(ids[0], ids[1], "it leads its group: {text}");
    assert_ne!(ids[1], ids[2], "in the session of its shim: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_is_become_for_good_with_its_groups_and_home() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root may change the user");
        return;
    }
    let stage = ProcessStage::new();
    let mut spec = spec(
        "user",
        "sh",
        &["-c", "id -u; id -g; id -G; echo $USER $HOME"],
    );
    spec.user = Some("nobody".to_owned());
    let known = sys::user(&sys::UserKey::Name("nobody")).unwrap().unwrap();
    let text = output_of(&stage, spec.clone()).await;
    let (uid, gid) = (known.uid, known.gid);
    assert_eq!(text, format!("{uid}\n{gid}\n{gid}\nnobody {}", known.home));
    spec.id = "numbers".parse().unwrap();
    spec.user = Some("4242:4343".to_owned());
    let text = output_of(&stage, spec).await;
    assert_eq!(text, "4242\n4343\n4343\n4242 /");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_files_of_the_component_alone_and_go_with_it() {
    let stage = ProcessStage::new();
    let source = stage.path("source");
    std::fs::write(&source, "canary-5f1c").unwrap();
    let script = "stat -c %a $FLOWCTL_SECRETS_DIR/key; cat $FLOWCTL_SECRETS_DIR/key; echo
        ulimit -c; echo $FLOWCTL_SECRETS_DIR; exec sleep 1000";
    let mut spec = spec("secrets", "sh", &["-c", script]);
    spec.secrets = vec![SecretSpec {
        name: "key".to_owned(),
        source: SecretSource::File(source.into()),
        container_path: None,
        mode: 0o400,
    }];
    if rustix::process::geteuid().is_root() {
        spec.user = Some("nobody".to_owned());
    }
    let launch = launch(spec, 1);
    let child = stage.start(&launch).await;
    let lines = super::output::lines_until(&stage, &launch.spec.id, 4).await;
    assert_eq!(lines[..3], ["400", "canary-5f1c", "0"]);
    let dir = PathBuf::from(&lines[3]);
    assert!(dir.exists());
    for place in [
        format!("/proc/{}/environ", child.pid),
        format!("/proc/{}/cmdline", child.pid),
        stage.file_of(&launch).display().to_string(),
    ] {
        let text = std::fs::read(&place).unwrap();
        let found = text.windows(11).any(|window| window == b"canary-5f1c");
        assert!(!found, "{place}");
    }
    stage.stop(&launch).await.unwrap();
    stage.driver.forget(&launch.instance).await.unwrap();
    assert!(!dir.exists(), "forgotten with the instance");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_over_its_memory_limit_is_ended_and_called_out_of_memory() {
    if unenforced().contains(&Limit::Memory) {
        println!("skipped: no control group for memory is writable here");
        return;
    }
    let stage = ProcessStage::new();
    let mut spec = spec("hungry", "tail", &["/dev/zero"]);
    spec.resources.memory_limit_bytes = Some(32 << 20);
    let launch = launch(spec, 1);
    stage.start(&launch).await;
    let ended = |life: &Life| matches!(life, Life::Exited(_));
    let seen = conformance::eventually(&stage.driver, &launch.instance, ended).await;
    let Life::Exited(exit) = seen.life else {
        panic!("{seen:?}");
    };
    assert!(exit.oom, "{exit:?}");
    stage.driver.forget(&launch.instance).await.unwrap();
    let groups = stage
        .driver
        .site
        .groups
        .make(&launch.instance, &Default::default());
    assert_eq!(groups.unwrap().join, Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_bomb_stays_within_its_limit_and_can_be_stopped() {
    if unenforced().contains(&Limit::Pids) {
        println!("skipped: no control group for processes is writable here");
        return;
    }
    let stage = ProcessStage::new();
    // Each process leaves its session and forks for ever.
    let bomb = "use POSIX; while (1) { my $pid = fork; setsid if defined $pid && !$pid;
        select undef, undef, undef, 0.01 }";
    let mut spec = spec("bomb", "perl", &["-e", bomb]);
    spec.resources.pids_limit = Some(60);
    let launch = launch(spec, 1);
    stage.start(&launch).await;
    wait_for("the limit is reached", || stage.marked(&launch) >= 50).await;
    assert!(stage.marked(&launch) <= 60);
    let deadline = Instant::now() + Duration::from_secs(30);
    // What forks may outlive one stop on a busy host; who has ordered it repeats it then.
    while let Err(error) = stage.stop(&launch).await {
        let survived = matches!(error, DriverError::StillAlive { .. });
        assert!(survived && Instant::now() < deadline, "{error:?}");
    }
    assert_eq!(stage.marked(&launch), 0);
    stage.driver.forget(&launch.instance).await.unwrap();
}
