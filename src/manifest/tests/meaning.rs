//! What the fields come to in the model.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{HEAD, component, pipeline, read};
use crate::manifest::{Colour, HOST_FROM_CONTAINER, Options, Orchestrator, parse};
use crate::model::{
    Backoff, ComponentSpec, Condition, DriverKind, HttpTarget, HumanDuration, Probe, ProbeCheck,
    ProcessSpec, ReplicaPort, RestartMode, RestartPolicy, RetryLimit, Role, SecretSource, Signal,
    StopPolicy, StopTarget, VolumeSource, Workload,
};

fn process(component: &ComponentSpec) -> &ProcessSpec {
    let Workload::Process(process) = &component.workload else {
        panic!("not a process: {component:?}");
    };
    process
}

#[test]
fn values_of_variables_stay_as_they_were_written() {
    let a = component(
        "  env: {SHARED: 1, OVER: spec}\n  sources:\n    - id: a\n      command: [x]\n      env: {OCTAL: 010, TRUTH: true, NO: no, VERSION: 1.10, HEX: 0x1F, TILDE: ~, NOTHING: , DATE: 2026-01-02, OVER: own, SHELL: \"$HOME ${PATH}\"}\n",
        "a",
    );
    let expected = [
        ("DATE", "2026-01-02"),
        ("HEX", "0x1F"),
        ("NO", "no"),
        ("NOTHING", ""),
        ("OCTAL", "010"),
        ("OVER", "own"),
        ("SHARED", "1"),
        ("SHELL", "$HOME ${PATH}"),
        ("TILDE", ""),
        ("TRUTH", "true"),
        ("VERSION", "1.10"),
    ];
    let env: BTreeMap<String, String> = expected
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    assert_eq!(a.env, env);
}

#[test]
fn an_address_is_right_for_who_asks_and_who_answers() {
    let drivers = ["process", "docker"];
    let mut body = "  sources:\n".to_owned();
    for driver in drivers {
        let port = 9000 + driver.len();
        body += &format!(
            "    - {{id: to-{driver}, driver: {driver}, image: i, command: [x], ports: [{{containerPort: {port}, hostPort: 1{port}, name: api}}]}}\n"
        );
    }
    body += "  sinks:\n";
    for driver in drivers {
        body += &format!(
            "    - id: from-{driver}\n      driver: {driver}\n      image: i\n      command: [x]\n      env:\n"
        );
        for target in drivers {
            body += &format!(
                "        {target}: ${{{{ components.to-{target}.address }}}} ${{{{components.to-{target}.host}}}} ${{{{ components.to-{target}.port }}}} ${{{{ components.to-{target}.ports.api }}}}\n"
            );
        }
    }
    let pipeline = pipeline(&body);
    let reached =
        |from: &str, to: &str| pipeline.components[format!("from-{from}").as_str()].env[to].clone();
    let way = |host: &str, port: u32| format!("{host}:{port} {host} {port} {port}");
    assert_eq!(reached("process", "process"), way("localhost", 9007));
    assert_eq!(reached("process", "docker"), way("localhost", 19006));
    assert_eq!(reached("docker", "docker"), way("to-docker", 9006));
    assert_eq!(reached("docker", "process"), way(HOST_FROM_CONTAINER, 9007));
}

#[test]
fn what_nomad_places_is_asked_for_once_it_runs_and_only_by_what_nomad_runs() {
    let body = |from: &str| {
        format!(
            "  sources: [{{id: to, driver: nomad, image: i, ports: [{{containerPort: 9005, name: api}}]}}]\n  sinks:\n    - id: from\n      driver: {from}\n      image: i\n      env: {{A: \"at ${{{{components.to.address}}}} ${{{{ components.to.ports.api }}}}\"}}\n"
        )
    };
    let from = &pipeline(&body("nomad")).components["from"];
    let kept = "at ${{ components.to.address }} ${{ components.to.ports.api }}";
    assert_eq!(from.env["A"], kept);
    let refused = read(&format!("{HEAD}{}", body("docker"))).unwrap_err();
    let said = refused.render(Colour::Off);
    assert!(
        said.contains("no address leads from one to the other"),
        "{said}"
    );
}

#[test]
fn references_name_the_pipeline_the_component_itself_and_its_replica() {
    let a = component(
        "  sources:\n    - id: a\n      command: [x, \"--me=${{ component.id }}.${{pipeline.name}}\"]\n      args: [\"${{component.replica}}\", \"${{ components.a.address }}\", \"$${{ pipeline.name }}$\"]\n      ports: [{containerPort: 80}]\n      config: {to: \"${{ components.a.port }}\", n: 0x10}\n",
        "a",
    );
    assert_eq!(
        process(&a).args,
        [
            "--me=a.p",
            ComponentSpec::REPLICA_REFERENCE,
            "localhost:80",
            "$p$"
        ]
    );
    assert_eq!(a.config, Some(serde_json::json!({"to": "80", "n": 16})));
}

#[test]
fn without_a_word_an_image_runs_in_docker_and_all_else_as_a_process() {
    let body = "  sources:\n    - {id: i, image: x}\n    - {id: both, image: x, command: [y]}\n    - {id: c, command: [y]}\n    - {id: own, driver: process, image: x, command: [y]}\n";
    let pipeline = pipeline(body);
    let drivers: Vec<_> = pipeline
        .components
        .values()
        .map(|c| (c.id.to_string(), c.driver()))
        .collect();
    let expected = [
        ("both", DriverKind::Docker),
        ("c", DriverKind::Process),
        ("i", DriverKind::Docker),
        ("own", DriverKind::Process),
    ];
    assert_eq!(
        drivers,
        expected.map(|(id, driver)| (id.to_owned(), driver))
    );
}

#[test]
fn an_orchestrator_goes_over_what_the_file_says() {
    let text = format!(
        "{HEAD}  driver: docker\n  sources: [{{id: a, driver: nomad, image: x, binary: y, args: [z]}}]\n"
    );
    let with = |orchestrator| {
        let mut options = Options::at("/base");
        options.given.orchestrator = orchestrator;
        let parsed = parse("p", text.as_bytes(), &options).unwrap();
        parsed.pipelines[0].components["a"].clone()
    };
    assert_eq!(with(None).driver(), DriverKind::Nomad);
    assert_eq!(
        with(Some(Orchestrator::Container)).driver(),
        DriverKind::Docker
    );
    let a = with(Some(Orchestrator::Process));
    assert_eq!(
        (process(&a).program.as_str(), process(&a).args.as_slice()),
        ("y", &["z".to_owned()][..])
    );
}

#[test]
fn a_component_named_like_a_replica_is_refused_only_where_both_are_containers() {
    let text = format!(
        "{HEAD}  sources: [{{id: a-b, image: x, command: [y], replicas: 2}}, {{id: a-b-1, command: [y], image: x}}]\n"
    );
    let with = |orchestrator| {
        let mut options = Options::at("/base");
        options.given.orchestrator = Some(orchestrator);
        parse("p", text.as_bytes(), &options)
    };
    assert!(with(Orchestrator::Process).is_ok());
    let problems = with(Orchestrator::Container).unwrap_err().to_string();
    assert!(problems.contains("both be called `a-b-1`"), "{problems}");
}

#[test]
fn a_namespace_is_given_to_pipelines_that_name_none() {
    let text = "apiVersion: flowctl/v1\nkind: Pipeline\nmetadata: { name: a }\nspec: { sources: [{ id: a, command: [x] }] }\n---\n\
                apiVersion: flowctl/v1\nkind: Pipeline\nmetadata: { name: b, namespace: own }\nspec: { sources: [{ id: a, command: [x] }] }\n";
    let mut options = Options::at("/base");
    options.given.namespace = Some("given".parse().unwrap());
    let parsed = parse("p", text.as_bytes(), &options).unwrap();
    let keys: Vec<String> = parsed.pipelines.iter().map(|p| p.key.to_string()).collect();
    assert_eq!(keys, ["given/a", "own/b"]);
}

#[test]
fn paths_are_meant_from_the_folder_of_the_file() {
    let body = "  sources:\n    - {id: a, command: [./run.sh], env_file: [a.env, /etc/b.env, ../c.env], secrets: [{name: s, file: ./key}]}\n    - {id: b, command: [x], working_dir: sub/./dir}\n    - {id: c, image: x, working_dir: /app, volumes: [{host_path: data, container_path: /data}]}\n";
    let a = component(body, "a");
    assert_eq!(process(&a).working_dir, PathBuf::from("/base"));
    assert_eq!(process(&a).program, "./run.sh");
    let files: Vec<_> = a
        .env_file
        .iter()
        .map(|path| path.to_str().unwrap())
        .collect();
    assert_eq!(files, ["/base/a.env", "/etc/b.env", "/base/../c.env"]);
    assert_eq!(a.secrets[0].source, SecretSource::File("/base/key".into()));
    assert_eq!(a.secrets[0].mode, 0o400);
    assert_eq!(
        process(&component(body, "b")).working_dir,
        PathBuf::from("/base/sub/dir")
    );
    assert_eq!(
        component(body, "c").volumes[0].source,
        VolumeSource::Bind("/base/data".into())
    );
}

#[test]
fn the_port_of_a_probe_may_have_the_number_of_its_replica_in_it() {
    let body = r#"  sources:
    - id: a
      command: [serve, "--port=808${{ component.replica }}"]
      replicas: 3
      health_port: 808${{component.replica}}
      probes: { liveness: { tcp: "80${{ component.replica }}1" } }
    - id: b
      command: [serve]
      replicas: 2
      health_check: "http://localhost:90${{ component.replica }}0/up"
"#;
    let pipeline = pipeline(body);
    let asked = |id: &str, replica: u32| {
        let probes = pipeline.components[id].probes.for_replica(replica);
        probes.ports().map(ReplicaPort::number).collect::<Vec<_>>()
    };
    assert_eq!(asked("a", 0), [8080, 8001]);
    assert_eq!(asked("a", 2), [8082, 8021]);
    assert_eq!(asked("b", 1), [9010]);
}

#[test]
fn a_health_check_is_a_readiness_probe_with_the_usual_figures() {
    let body = "  sources:\n    - {id: both, command: [x], health_check: /up, health_port: 81}\n    - {id: port, command: [x], health_port: 82}\n    - {id: url, command: [x], health_check: \"http://example.test:83/x?y=1\"}\n    - {id: here, command: [x], health_check: \"http://localhost:84\"}\n";
    let pipeline = pipeline(body);
    let check = |id: &str| match pipeline.components[id]
        .probes
        .readiness
        .clone()
        .unwrap()
        .check
    {
        ProbeCheck::Http(HttpTarget { host, port, path }) => (host, port, path),
        other @ (ProbeCheck::Grpc { .. }
        | ProbeCheck::Tcp { .. }
        | ProbeCheck::Exec { .. }
        | ProbeCheck::Heartbeat { .. }) => {
            panic!("{other:?}")
        }
    };
    assert_eq!(check("both"), (None, 81.into(), "/up".to_owned()));
    assert_eq!(check("port"), (None, 82.into(), "/health".to_owned()));
    assert_eq!(
        check("url"),
        (
            Some("example.test".to_owned()),
            83.into(),
            "/x?y=1".to_owned()
        )
    );
    assert_eq!(check("here"), (None, 84.into(), "/".to_owned()));
    let Probe {
        period,
        timeout,
        failures,
        successes,
        ..
    } = pipeline.components["port"]
        .probes
        .readiness
        .clone()
        .unwrap();
    assert_eq!(
        (period, timeout, failures, successes),
        (
            HumanDuration::from_secs(10),
            HumanDuration::from_secs(2),
            3,
            1
        )
    );
}

#[test]
fn defaults_fill_what_a_component_leaves_open_and_nothing_else() {
    let body = "  defaults:\n    restart: {policy: on-failure, initial_delay: 5s, max_retries: 3}\n    stop: {signal: INT, to: main, grace_period: 1s}\n    probes: {readiness: {period: 3s, failures: 7}, liveness: {tcp: 80}}\n  sources:\n    - {id: plain, command: [x]}\n    - {id: own, command: [x], restart: {policy: never, window: 1m}, stop: {grace_period: 9s, to: group}, probes: {readiness: {http: 80, period: 4s}, startup: {grpc: 90}}}\n";
    let pipeline = pipeline(body);
    let plain = &pipeline.components["plain"];
    assert_eq!(
        plain.restart,
        RestartPolicy {
            mode: RestartMode::OnFailure,
            initial_delay: HumanDuration::from_secs(5),
            limit: Some(RetryLimit {
                max_retries: 3,
                window: None
            }),
            ..RestartPolicy::default()
        }
    );
    assert_eq!(
        plain.stop,
        StopPolicy {
            signal: Some(Signal::INT),
            to: StopTarget::Main,
            grace_period: HumanDuration::from_secs(1)
        }
    );
    assert_eq!(
        plain.probes.readiness, None,
        "a default without a check asks nothing by itself"
    );
    assert_eq!(
        plain.probes.liveness.as_ref().unwrap().check,
        ProbeCheck::Tcp { port: 80.into() }
    );
    let own = &pipeline.components["own"];
    assert_eq!(own.restart.mode, RestartMode::Never);
    assert_eq!(
        own.restart.limit,
        Some(RetryLimit {
            max_retries: 3,
            window: Some(HumanDuration::from_secs(60))
        })
    );
    assert_eq!(
        own.stop,
        StopPolicy {
            signal: Some(Signal::INT),
            to: StopTarget::Group,
            grace_period: HumanDuration::from_secs(9)
        }
    );
    let readiness = own.probes.readiness.as_ref().unwrap();
    assert_eq!(
        (readiness.period, readiness.failures),
        (HumanDuration::from_secs(4), 7)
    );
    let startup = own.probes.startup.as_ref().unwrap();
    assert_eq!(
        (startup.period, startup.failures),
        (HumanDuration::from_secs(1), 30)
    );
}

#[test]
fn words_for_a_restart_policy_are_read_in_either_field() {
    for (written, mode) in [
        ("restart: always", RestartMode::Always),
        ("restart_policy: on-failure", RestartMode::OnFailure),
        ("restart_policy: no", RestartMode::Never),
        ("restart: {policy: unless-stopped}", RestartMode::Always),
        (
            "restart_policy: {policy: never, backoff: fixed}",
            RestartMode::Never,
        ),
    ] {
        let a = component(
            &format!("  sources: [{{id: a, command: [x], {written}}}]\n"),
            "a",
        );
        assert_eq!(a.restart.mode, mode, "{written}");
        let fixed = written.contains("fixed");
        assert_eq!(a.restart.backoff == Backoff::Fixed, fixed);
    }
}

#[test]
fn a_long_first_delay_lifts_the_longest() {
    let a = component(
        "  sources: [{id: a, command: [x], restart: {initial_delay: 5m}}]\n",
        "a",
    );
    assert_eq!(a.restart.max_delay, HumanDuration::from_secs(300));
}

#[test]
fn inputs_and_depends_on_make_one_list_in_which_the_condition_counts() {
    let body = "  sinks:\n    - {id: z, command: [x], inputs: [a, b], depends_on: [{id: a, condition: completed}, c]}\n  sources: [{id: a, command: [x], restart: never}, {id: b, command: [x]}, {id: c, command: [x]}]\n";
    let z = component(body, "z");
    let dependencies: Vec<_> = z
        .dependencies
        .iter()
        .map(|d| (d.id.as_str(), d.condition))
        .collect();
    assert_eq!(
        dependencies,
        [
            ("a", Condition::Completed),
            ("c", Condition::Ready),
            ("b", Condition::Ready)
        ]
    );
    assert_eq!(z.role, Role::Sink);
    assert_eq!(
        z.inputs.iter().map(|id| id.as_str()).collect::<Vec<_>>(),
        ["a", "b"]
    );
}

#[test]
fn a_type_of_upstreams_registry_is_an_image() {
    for (kind, image) in [
        ("ttp@v1.2", "docker.io/withobsrvr/ttp:v1.2"),
        ("other/ttp@v1", "docker.io/other/ttp:v1"),
    ] {
        let a = component(&format!("  sources: [{{id: a, type: {kind}}}]\n"), "a");
        match &a.workload {
            Workload::Docker(container) => assert_eq!(container.image, image),
            Workload::Process(_) | Workload::Nomad(_) | Workload::Kubernetes(_) => panic!("{a:?}"),
        }
    }
}

#[test]
fn several_documents_are_several_pipelines_in_their_order() {
    let one = |name: &str| {
        format!(
            "apiVersion: flowctl/v1\nkind: Pipeline\nmetadata: {{name: {name}, namespace: team}}\nspec: {{sources: [{{id: a, command: [x]}}]}}\n"
        )
    };
    let parsed = read(&format!("{}---\n{}", one("z"), one("a"))).unwrap();
    let names: Vec<_> = parsed
        .pipelines
        .iter()
        .map(|pipeline| pipeline.key.to_string())
        .collect();
    assert_eq!(names, ["team/z", "team/a"]);
}

#[test]
fn merged_and_anchored_values_are_as_if_written_out() {
    let anchored = pipeline(
        "  sources:\n    - &a {id: a, command: [x], env: {A: 1, B: 2}}\n    - {<<: *a, id: b}\n",
    );
    let plain = pipeline(
        "  sources:\n    - {id: a, command: [x], env: {A: 1, B: 2}}\n    - {id: b, command: [x], env: {A: 1, B: 2}}\n",
    );
    assert_eq!(anchored, plain);
}

#[test]
fn a_spec_survives_its_stored_form() {
    let text = std::fs::read(super::data("good").join("whole-schema.yaml")).unwrap();
    let parsed = parse("whole", &text, &Options::at("/base")).unwrap();
    for pipeline in parsed.pipelines {
        let stored = serde_json::to_string(&pipeline).unwrap();
        assert_eq!(
            serde_json::from_str::<crate::model::PipelineSpec>(&stored).unwrap(),
            pipeline
        );
    }
}

#[test]
fn json_indented_with_tabs_is_yaml_too() {
    let text = "{\n\t\"apiVersion\": \"flowctl/v1\",\n\t\"kind\": \"Pipeline\",\n\t\"metadata\": {\"name\": \"p\"},\n\t\"spec\": {\n\t\t\"sources\": [\n\t\t\t{\"id\": \"a\", \"command\": [\"x\"], \"env\": {\"A\": 1}}\n\t\t]\n\t}\n}\n";
    let parsed = read(text).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(parsed.pipelines[0].components["a"].env["A"], "1");
}
