//! What a component can say, as its container has it.

use std::collections::BTreeSet;
use std::time::Duration;

use bollard::models::VolumeCreateRequest;
use bollard::query_parameters::RemoveVolumeOptions;
use tokio::net::{TcpListener, UnixStream};

use super::engines::Proxy;
use super::*;
use crate::driver::conformance::{eventually_exits, eventually_runs, launch, pipeline};
use crate::driver::{Follow, LogLine, LogQuery, Runs};
use crate::model::{ExitStatus, Port, Protocol, SecretSource, SecretSpec};

/// All lines of a component, once there are `count` of them.
async fn lines(stage: &DockerStage, id: &str, count: usize) -> Vec<LogLine> {
    let query = LogQuery {
        pipeline: pipeline(),
        components: BTreeSet::from([format!("{}-{id}", stage.mark).parse().unwrap()]),
        without: BTreeSet::new(),
        since: None,
        until: None,
        tail: None,
        filter: None,
        runs: Runs::All,
        follow: Follow::No,
    };
    let mut found = Vec::new();
    for _ in 0..1_000 {
        let mut stream = stage.driver.logs(&query).await.unwrap();
        found.clear();
        while let Some(line) = stream.recv().await {
            found.push(line.unwrap());
        }
        if found.len() >= count {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("only {} lines of {id}", found.len());
}

fn texts(lines: &[LogLine]) -> Vec<String> {
    let text = |line: &LogLine| String::from_utf8_lossy(&line.text).into_owned();
    lines.iter().map(text).collect()
}

#[tokio::test]
async fn output_is_copied_without_gap_or_repeat_over_restarts_of_the_daemon() {
    let Some(mut stage) = DockerStage::new() else {
        return;
    };
    let script = "n=0; while [ $n -lt 400 ]; do echo line $n; echo oops $n >&2; n=$((n+1)); \
                  [ $((n % 20)) = 0 ] && sleep 0.1; done; exit 3";
    let launch = launch(stage.shell("talks", script), 1);
    stage.driver.start(&launch).await.unwrap();
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        stage.restart().await;
        stage.driver.observe(&Scope::All).await.unwrap();
    }
    let status = eventually_exits(&*stage.driver, &launch.instance).await;
    assert_eq!(status, ExitStatus::Code(3));
    stage.driver.forget(&launch.instance).await.unwrap();
    let texts = texts(&lines(&stage, "talks", 800).await);
    for word in ["line", "oops"] {
        let of_stream: Vec<_> = texts.iter().filter(|text| text.starts_with(word)).collect();
        let wanted: Vec<String> = (0..400).map(|number| format!("{word} {number}")).collect();
        assert_eq!(of_stream, wanted.iter().collect::<Vec<_>>());
    }
    stage.end().await;
}

#[tokio::test]
async fn output_goes_on_when_the_connection_to_another_host_dies_without_a_sign() {
    let Some(Endpoint::Unix(socket)) = engine() else {
        return;
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Endpoint::Tcp(listener.local_addr().unwrap().to_string());
    // Connections up to this number stay open and carry nothing.
    let dead = Arc::new(AtomicU32::new(0));
    let buried = dead.clone();
    let made = Arc::new(AtomicU32::new(0));
    let counted = made.clone();
    let forwarder = tokio::spawn(async move {
        loop {
            let (mut ours, _) = listener.accept().await.unwrap();
            let mut theirs = UnixStream::connect(&socket).await.unwrap();
            let (number, buried) = (counted.fetch_add(1, Ordering::Relaxed) + 1, buried.clone());
            tokio::spawn(async move {
                let dies = async {
                    while buried.load(Ordering::Relaxed) < number {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                };
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut ours, &mut theirs) => {}
                    () = dies => std::future::pending().await,
                }
            });
        }
    });
    let stage = DockerStage::on(endpoint);
    let script = "n=0; while :; do n=$((n+1)); echo $n; sleep 0.2; done";
    let mut spec = stage.shell("counts", script);
    // Of another host's folders nothing is known.
    spec.volumes.clear();
    let launch = launch(spec, 1);
    stage.driver.start(&launch).await.unwrap();
    eventually_runs(&*stage.driver, &launch.instance).await;
    let before = lines(&stage, "counts", 5).await.len();
    dead.store(made.load(Ordering::Relaxed), Ordering::Relaxed);
    let until = tokio::time::Instant::now() + Duration::from_secs(60);
    let mut texts = texts(&lines(&stage, "counts", before).await);
    while texts.len() < before + 20 {
        assert!(tokio::time::Instant::now() < until, "{texts:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
        texts = self::texts(&lines(&stage, "counts", before).await);
    }
    let wanted: Vec<String> = (1..=texts.len()).map(|number| number.to_string()).collect();
    assert_eq!(texts, wanted);
    stage.end().await;
    forwarder.abort();
}

#[tokio::test]
async fn what_ended_with_much_to_copy_is_copied_once_though_it_is_looked_at_meanwhile() {
    let Some(stage) = DockerStage::new() else {
        return;
    };
    let launch = launch(stage.shell("much", "seq 1 30000"), 1);
    stage.driver.start(&launch).await.unwrap();
    eventually_exits(&*stage.driver, &launch.instance).await;
    let looks = async {
        loop {
            stage.driver.observe(&Scope::All).await.unwrap();
        }
    };
    let forgotten = async {
        // Each waits for ten seconds, of which a busy host may need more.
        while stage.driver.forget(&launch.instance).await.is_err() {}
    };
    tokio::select! {
        () = forgotten => {}
        () = looks => {}
    }
    let texts = texts(&lines(&stage, "much", 30_000).await);
    let wanted: Vec<String> = (1..=30_000).map(|number| number.to_string()).collect();
    assert_eq!(texts.len(), wanted.len());
    assert!(texts == wanted, "each line once, in order");
    stage.end().await;
}

#[tokio::test]
async fn what_podman_calls_stopped_has_ended_and_is_copied_to_the_end() {
    let Some(Endpoint::Unix(socket)) = engine() else {
        return;
    };
    // Podman's word for what has ended and is not tidied up; here for good.
    let proxy = Proxy::before(socket, || {
        |said: &mut [u8]| {
            let docker = br#""Status":"exited","Running":false,"#;
            let podman = br#""Status":"stopped","Was":"exited","#;
            let places = said.windows(docker.len()).enumerate();
            let places: Vec<usize> = places
                .filter(|(_, window)| window == docker)
                .map(|(at, _)| at)
                .collect();
            for at in places {
                said[at..at + docker.len()].copy_from_slice(podman);
            }
            said.len()
        }
    });
    let stage = DockerStage::on(proxy.endpoint());
    let launch = launch(stage.shell("says", "echo farewell"), 1);
    stage.driver.start(&launch).await.unwrap();
    eventually_exits(&*stage.driver, &launch.instance).await;
    eventually_forgotten(&stage.driver, &launch.instance).await;
    assert_eq!(texts(&lines(&stage, "says", 1).await), ["farewell"]);
    stage.end().await;
}

#[tokio::test]
async fn a_secret_is_a_file_in_the_container_and_nowhere_else() {
    let Some(stage) = DockerStage::new() else {
        return;
    };
    let canary = "canary-7431";
    let file = stage.root.path().join("password");
    std::fs::write(&file, canary).unwrap();
    let script = "cat $FLOWCTL_SECRETS_DIR/password; echo; cat /also/here; echo; \
                  echo x > $FLOWCTL_SECRETS_DIR/password || echo refused; sleep 1000";
    let mut spec = stage.shell("secret", script);
    spec.secrets = vec![SecretSpec {
        name: "password".to_owned(),
        source: SecretSource::File(file),
        container_path: Some("/also/here".to_owned()),
        mode: 0o400,
    }];
    let launch = launch(spec, 1);
    stage.driver.start(&launch).await.unwrap();
    let said = texts(&lines(&stage, "secret", 4).await);
    assert_eq!(
        said.iter().filter(|text| *text == canary).count(),
        2,
        "{said:?}"
    );
    assert!(said.contains(&"refused".to_owned()), "{said:?}");
    let seen = stage.driver.find(&launch.instance).await.unwrap().unwrap();
    let inspected = stage.driver.inner.engine.container(&seen.id).await.unwrap();
    assert!(!format!("{inspected:?}").contains(canary));
    let dir = secrets::dir(&stage.driver.inner.secrets, &launch.instance);
    assert!(dir.exists());
    stage
        .driver
        .stop(&launch.instance, &launch.spec.stop)
        .await
        .unwrap();
    stage.driver.forget(&launch.instance).await.unwrap();
    assert!(!dir.exists(), "it is gone with the instance");
    stage.end().await;
}

#[tokio::test]
async fn containers_reach_each_other_by_id_and_the_host_by_its_name() {
    let Some(stage) = DockerStage::new() else {
        return;
    };
    let serve = "while :; do echo hello from $HOSTNAME | nc -l -p 7000; done";
    let mut server = stage.shell("server", serve);
    let host_port = free_port();
    server.ports = vec![Port {
        name: None,
        container_port: 7_000,
        host_port: Some(host_port),
        host_ip: None,
        protocol: Protocol::Tcp,
    }];
    let server = launch(server, 1);
    stage.driver.start(&server).await.unwrap();
    let host = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = host.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut guest, _) = host.accept().unwrap();
        std::io::Write::write_all(&mut guest, b"host answers\n").unwrap();
    });
    let id = &server.spec.id;
    let script = format!(
        "for i in $(seq 100); do nc {id} 7000 </dev/null && break; sleep 0.1; done; \
         nc host.flowctl.internal {port} </dev/null"
    );
    let client = launch(stage.shell("client", &script), 1);
    stage.driver.start(&client).await.unwrap();
    let said = texts(&lines(&stage, "client", 2).await);
    assert!(said[0].starts_with("hello from"), "{said:?}");
    assert_eq!(said[1], "host answers");
    eventually_runs(&*stage.driver, &server.instance).await;
    let published = stage.driver.reach(&server.instance, 7_000);
    let on_host = ([127, 0, 0, 1], host_port).into();
    assert_eq!(published, Some(Reached::At(on_host)));
    let Some(Reached::At(inside)) = stage.driver.reach(&server.instance, 7_001) else {
        panic!("it has an address of its own");
    };
    assert!(inside.to_string().starts_with("10."), "{inside}");
    for launch in [&client, &server] {
        stage
            .driver
            .stop(&launch.instance, &launch.spec.stop)
            .await
            .unwrap();
        stage.driver.forget(&launch.instance).await.unwrap();
    }
    stage.end().await;
}

#[tokio::test]
async fn named_volumes_outlive_their_container_and_go_only_when_asked() {
    let Some(stage) = DockerStage::new() else {
        return;
    };
    let volume = |target: &str, source, read_only| Volume {
        source,
        target: target.to_owned(),
        read_only,
    };
    let named = format!("{}-data", stage.mark);
    let script = "echo kept >> /data/file; touch /stage-ro/x 2>/dev/null || echo read-only; \
                  touch /scratch/x && echo scratch; cat /data/file";
    for run in 1..=2 {
        let mut spec = stage.shell("volumes", script);
        let stage_dir = stage.folder();
        spec.volumes.extend([
            volume("/data", VolumeSource::Named(named.clone()), false),
            volume("/stage-ro", VolumeSource::Bind(stage_dir), true),
            volume("/scratch", VolumeSource::Tmpfs, false),
        ]);
        let launch = launch(spec, run);
        stage.driver.start(&launch).await.unwrap();
        let status = eventually_exits(&*stage.driver, &launch.instance).await;
        assert_eq!(status, ExitStatus::Code(0));
        stage.driver.forget(&launch.instance).await.unwrap();
    }
    let said = texts(&lines(&stage, "volumes", 7).await);
    assert_eq!(
        said,
        [
            "read-only",
            "scratch",
            "kept",
            "read-only",
            "scratch",
            "kept",
            "kept"
        ]
    );
    let kept = stage.driver.clean_up(Volumes::Keep).await.unwrap();
    assert_eq!(kept.volumes_kept, std::slice::from_ref(&named));
    let removed = stage.driver.clean_up(Volumes::Remove).await.unwrap();
    assert_eq!(removed.volumes_removed, [named]);
    stage.end().await;
}

/// What comes of a start.
#[derive(Clone, Copy)]
enum Answer {
    Runs,
    Refused,
}

#[tokio::test]
async fn a_volume_that_leads_to_the_host_is_judged_by_where_it_leads() {
    let Some(stage) = DockerStage::new() else {
        return;
    };
    let client = stage.driver.inner.engine.client().unwrap();
    let allowed = stage.folder();
    let mut names = Vec::new();
    for (place, read_only, expected) in [
        (Path::new("/etc"), true, Answer::Refused),
        (Path::new("/opt"), false, Answer::Refused),
        (&allowed, false, Answer::Runs),
    ] {
        let name = format!("{}-{}", stage.mark, names.len());
        let options = [("type", "none"), ("o", "bind")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let device = ("device".to_owned(), place.display().to_string());
        let request = VolumeCreateRequest {
            name: Some(name.clone()),
            driver_opts: Some(options.into_iter().chain([device]).collect()),
            ..VolumeCreateRequest::default()
        };
        client.create_volume(request).await.unwrap();
        let mut spec = stage.shell(&format!("led-{}", names.len()), "exec sleep 1000");
        spec.volumes.push(Volume {
            source: VolumeSource::Named(name.clone()),
            target: "/there".to_owned(),
            read_only,
        });
        let launch = launch(spec, 1);
        let answer = stage.driver.start(&launch).await;
        match (expected, answer) {
            (Answer::Runs, Ok(_)) => {}
            (Answer::Refused, Err(DriverError::Refused(failure))) => {
                assert!(failure.message.contains(&name), "{failure:?}");
            }
            (_, answer) => panic!("{}: {answer:?}", place.display()),
        }
        names.push(name);
    }
    stage.end().await;
    for name in names {
        let none = None::<RemoveVolumeOptions>;
        client.remove_volume(&name, none).await.unwrap();
    }
}

#[tokio::test]
async fn the_engines_socket_the_state_directory_and_the_hosts_network_are_refused() {
    let Some(stage) = DockerStage::new() else {
        return;
    };
    let Endpoint::Unix(socket) = &stage.endpoint else {
        return;
    };
    let mut by_mount = stage.container("mount", &["true"]);
    by_mount.volumes[0].source = VolumeSource::Bind(socket.parent().unwrap().to_owned());
    let mut by_state = stage.container("state", &["true"]);
    by_state.volumes[0].source = VolumeSource::Bind(stage.root.path().to_owned());
    let mut by_network = stage.container("network", &["true"]);
    if let Workload::Docker(container) = &mut by_network.workload {
        container.network = Some("host".to_owned());
    }
    for spec in [by_mount, by_state, by_network] {
        match stage.driver.start(&launch(spec, 1)).await {
            Err(DriverError::Refused(failure)) => assert_eq!(failure.reason, "PrivilegedRefused"),
            answer => panic!("{answer:?}"),
        }
    }
    stage.end().await;
}

#[tokio::test]
async fn an_image_that_is_not_to_be_had_is_a_reason_of_its_own() {
    let Some(stage) = DockerStage::new() else {
        return;
    };
    let mut spec = stage.container("image", &["true"]);
    if let Workload::Docker(container) = &mut spec.workload {
        // Nobody listens there.
        container.image = "127.0.0.1:1/no/such:1".to_owned();
    }
    match stage.driver.start(&launch(spec, 1)).await {
        Err(DriverError::Refused(failure)) => {
            assert!(failure.reason.starts_with("ImagePull"), "{failure:?}");
        }
        answer => panic!("{answer:?}"),
    }
    stage.end().await;
}
