//! What components are told of a collector of OpenTelemetry.

use crate::support::{World, eventually, shell};

/// A component that writes what it is told into a file of its name.
fn told(world: &World, id: &str, more: &str) -> String {
    let file = world.path(id);
    let file = file.display();
    let script =
        format!("env | grep ^OTEL_ | sort > {file}.new; mv {file}.new {file}; exec sleep 100000");
    shell(id, &script, more)
}

#[test]
fn components_are_told_of_a_collector_as_they_start_and_another_one_restarts_nobody() {
    let mut world = World::new();
    world.set("FLOWCTL_OTLP_ENDPOINT", "http://127.0.0.1:4318");
    let own = ", env: { OTEL_SERVICE_NAME: mine }";
    world.apply(&(told(&world, "plain", "") + &told(&world, "own", own)));
    eventually("both have told", || {
        !world.read("plain").is_empty() && !world.read("own").is_empty()
    });
    let plain = world.read("plain");
    let lines: Vec<&str> = plain.lines().collect();
    assert_eq!(
        lines[0],
        "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318"
    );
    assert_eq!(lines[1], "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf");
    assert!(
        lines[2].starts_with("OTEL_RESOURCE_ATTRIBUTES=service.namespace=p,service.instance.id=")
            && lines[2].ends_with(".default.p.plain.0"),
        "{plain}"
    );
    assert_eq!(lines[3], "OTEL_SERVICE_NAME=plain");
    assert!(world.read("own").ends_with("OTEL_SERVICE_NAME=mine\n"));

    let before = world.status();
    world.kill_daemon();
    world.set("FLOWCTL_OTLP_ENDPOINT", "http://127.0.0.1:4317");
    world.start_daemon();
    let after = world.until("they are known again", |status| status.settled());
    assert_eq!(after.pid("plain"), before.pid("plain"));
    world.ok(&["restart", "plain"]);
    eventually("its next run is told of the other one", || {
        let told = world.read("plain");
        told.contains("_ENDPOINT=http://127.0.0.1:4317\n") && told.contains("_PROTOCOL=grpc\n")
    });
    let said = world.fails(2, &["daemon", "--otlp-endpoint", "localhost:4317"]);
    assert!(said.contains("must begin with `http://`"), "{said}");
}
