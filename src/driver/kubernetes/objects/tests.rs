//! Manifests, and the objects that they come to: each golden file is what a cluster is sent.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{Object, Objects, Order, Values, of, parent};
use crate::driver::Launch;
use crate::driver::inputs::Inputs;
use crate::manifest::{Options, parse, yaml};
use crate::model::{ComponentSpec, Generation, ImageChoice, InstanceId, PipelineSpec, ReplicaKey};

const OWNER: &str = "host-a";
const PARENT: &str = "6f1c9a3e-0000-4000-8000-000000000001";

/// The pipeline `ttp` with these lines under `spec`, run by the driver.
fn pipeline(spec: &str) -> PipelineSpec {
    let text = format!(
        "apiVersion: flowctl/v1\nkind: Pipeline\nmetadata: {{name: ttp}}\nspec:\n  driver: kubernetes\n{spec}"
    );
    let parsed = parse("p.yaml", text.as_bytes(), &Options::at("/base"));
    let parsed = parsed.unwrap_or_else(|problems| panic!("{problems}"));
    let [pipeline] = parsed.pipelines.try_into().unwrap();
    pipeline
}

fn launch(pipeline: &PipelineSpec, component: &str, incarnation: u64) -> Launch {
    let spec: ComponentSpec = pipeline.components[component].clone();
    Launch {
        instance: InstanceId {
            pipeline: pipeline.key.clone(),
            replica: ReplicaKey {
                component: spec.id.clone(),
                replica: 0,
            },
            incarnation,
        },
        spec: Arc::new(spec),
        generation: Generation(4),
        file: Some("/etc/flowctl/ttp.yaml".into()),
        injected: BTreeMap::new(),
        image: ImageChoice::ByPolicy,
        given_up: CancellationToken::new(),
    }
}

fn objects(launch: &Launch, inputs: &Inputs) -> Objects {
    let order = Order {
        owner: OWNER,
        namespace: "data",
        launch,
        values: Values::Read(inputs),
        parent: Some(PARENT),
    };
    of(&order).unwrap()
}

/// All documents as a file that a cluster is given.
fn documents(objects: &Objects) -> String {
    let all = objects.before.iter().chain([&objects.job]);
    let texts = all.map(|Object { body, .. }| yaml::to_string(body).unwrap());
    texts.collect::<Vec<_>>().join("---\n")
}

fn main_of(objects: &Objects) -> &Value {
    &objects.job.body["spec"]["template"]["spec"]["containers"][0]
}

#[test]
fn a_component_with_little_to_say_is_a_job_of_one_pod() {
    let pipeline = pipeline("  sources: [{id: ledgers, image: \"example/ledgers:1\"}]\n");
    let objects = objects(&launch(&pipeline, "ledgers", 1), &Inputs::default());
    insta::assert_snapshot!(documents(&objects));
}

#[test]
fn a_pipeline_has_one_object_that_the_others_go_with() {
    let pipeline = pipeline("  sources: [{id: ledgers, image: \"example/ledgers:1\"}]\n");
    let file = std::path::Path::new("/etc/flowctl/ttp.yaml");
    let parent = parent(OWNER, "data", &pipeline.key, Some(file));
    insta::assert_snapshot!(yaml::to_string(&parent.body).unwrap());
}

#[test]
fn what_a_program_is_told_arrives_as_it_was_written() {
    let pipeline = pipeline(
        "  sources:\n    - id: a\n      image: x:1\n      command: [run, \"$(HOME)\", \"$$\"]\n      args: [\"${X}\"]\n      env: {A: \"$(B)\", B: \"1\"}\n      probes: {readiness: {exec: [test, \"$X\"]}}\n",
    );
    let objects = objects(&launch(&pipeline, "a", 1), &Inputs::default());
    let main = main_of(&objects);
    assert_eq!(
        main["args"],
        serde_json::json!(["run", "$$(HOME)", "$$$$", "$${X}"])
    );
    assert_eq!(main["command"], Value::Null, "the image's entrypoint stays");
    assert_eq!(main["env"][0]["value"], "$$(B)");
    assert_eq!(main["readinessProbe"]["exec"]["command"][1], "$$X");
}

#[test]
fn a_component_with_much_to_say_keeps_all_of_it() {
    let pipeline = pipeline(
        r#"
  kubernetes: {namespace: data, image_pull_secrets: [registry], labels: {team: data}}
  sources:
    - id: ledgers
      image: "example/ledgers:1"
      pull: if-not-present
      command: [serve, --replica, "${{ component.replica }}"]
      working_dir: /srv
      env: {DEPTH: 010}
      ports:
        - {containerPort: 8080, name: web}
        - {containerPort: 9000, name: Metrics_and_more}
        - {containerPort: 53, protocol: UDP}
      probes:
        startup: {tcp: 8080, period: 500ms, failures: 60}
        readiness: {http: {path: /ready, port: 8080}, period: 5s, timeout: 1s, successes: 2}
        liveness: {grpc: {port: 9000, service: ledgers}, failures: 5}
      stop: {signal: SIGINT, grace_period: 2500ms}
      resources: {requests: {cpu: 250m}, limits: {cpu: 1, memory: 64Mi}}
      user: "1000:2000"
      replicas: 3
      secrets:
        - {name: key, env: LEDGERS_KEY}
        - {name: password, kubernetes: {secret: database, key: pw}, container_path: /etc/db/password, mode: "0440"}
      volumes:
        - {name: data, container_path: /data}
        - {tmpfs: true, container_path: /scratch}
      kubernetes:
        storage: {size: 10Gi, class: shared, access: many-nodes}
        service_account: ledgers
        node_selector: {disktype: ssd}
        tolerations: [{key: dedicated, value: data, effect: NoExecute, seconds: 60}, {}]
        priority_class: high
        annotations: {example.com/scrape: "true"}
"#,
    );
    let mut launch = launch(&pipeline, "ledgers", 17);
    launch.injected = [
        ("COMPONENT_TOKEN".to_owned(), "a.b.c".to_owned()),
        (
            "FLOWCTL_ENDPOINT".to_owned(),
            "flowctl.data.svc:8080".to_owned(),
        ),
    ]
    .into();
    let inputs = Inputs {
        variables: vec![("FROM_FILE".to_owned(), b"$5".to_vec())],
        secrets: [("key".to_owned(), b"s3cret".to_vec())].into(),
    };
    let objects = objects(&launch, &inputs);
    insta::assert_snapshot!(documents(&objects));
    let job = objects.job.body.to_string();
    assert!(!job.contains("s3cret") && !job.contains("a.b.c"), "{job}");
}

#[test]
fn what_a_restricted_namespace_asks_for_is_kept_by_one_word() {
    let pipeline = pipeline(
        "  kubernetes: {security: restricted}\n  sources: [{id: a, image: x, user: \"1000\"}, {id: b, image: x, kubernetes: {security: image}}]\n",
    );
    let of = |id| {
        objects(&launch(&pipeline, id, 1), &Inputs::default())
            .job
            .body
    };
    let (restricted, image) = (of("a"), of("b"));
    let pod = &restricted["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(
        pod["securityContext"]["seccompProfile"]["type"],
        "RuntimeDefault"
    );
    let main = &pod["containers"][0]["securityContext"];
    assert_eq!(main["allowPrivilegeEscalation"], false);
    assert_eq!(main["capabilities"], serde_json::json!({"drop": ["ALL"]}));
    let pod = &image["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"], Value::Null);
    assert_eq!(pod["containers"][0]["securityContext"], Value::Null);
}

#[test]
fn a_change_of_a_secret_is_another_secret_and_the_same_start_is_the_same_objects() {
    let pipeline = pipeline("  sources: [{id: a, image: x, secrets: [{name: s, env: S}]}]\n");
    let launch = launch(&pipeline, "a", 3);
    let with = |value: &str| {
        let secrets = [("s".to_owned(), value.as_bytes().to_vec())];
        objects(
            &launch,
            &Inputs {
                variables: vec![],
                secrets: secrets.into(),
            },
        )
    };
    assert_eq!(with("one"), with("one"));
    let (one, two) = (with("one"), with("two"));
    assert_ne!(one.before[0].name, two.before[0].name);
    assert_eq!(one.job.name, two.job.name);
}

#[test]
fn shared_objects_bear_the_digest_of_what_they_were_sent_as() {
    let with_port = |port: u16| {
        let pipeline = pipeline(&format!(
            "  sources: [{{id: a, image: x, ports: [{{containerPort: {port}}}]}}]\n"
        ));
        objects(&launch(&pipeline, "a", 1), &Inputs::default()).before
    };
    let (one, two) = (with_port(80), with_port(81));
    assert_eq!(one[0].name, "ttp-a");
    assert_ne!(one[0].hash, two[0].hash);
    let told = &one[0].body["metadata"]["annotations"][super::identity::APPLIED_HASH];
    assert_eq!(told.as_str(), Some(one[0].hash.as_str()));
}

#[test]
fn readiness_is_found_within_a_second_but_where_liveness_would_wait_for_it() {
    let probes = |fields: &str| {
        let pipeline = pipeline(&format!(
            "  sources: [{{id: a, image: x, probes: {{{fields}}}}}]\n"
        ));
        let objects = objects(&launch(&pipeline, "a", 1), &Inputs::default());
        main_of(&objects).clone()
    };
    let main = probes("readiness: {tcp: 80}");
    assert_eq!(main["startupProbe"]["periodSeconds"], 1);
    assert_eq!(main["readinessProbe"]["periodSeconds"], 10);
    let main = probes("readiness: {tcp: 80}, liveness: {tcp: 80}");
    assert_eq!(main["startupProbe"], Value::Null);
    let main = probes("readiness: {heartbeat: {ttl: 30s}}");
    assert_eq!(main["readinessProbe"], Value::Null);
    assert_eq!(main["startupProbe"], Value::Null);
}

#[test]
fn what_a_cluster_cannot_hold_is_refused_before_anything_is_sent() {
    let plain = pipeline("  sources: [{id: a, image: x, env_file: /f}]\n");
    let launch = launch(&plain, "a", 1);
    let refused = |variables: Vec<(String, Vec<u8>)>| {
        let inputs = Inputs {
            variables,
            ..Inputs::default()
        };
        let order = Order {
            owner: OWNER,
            namespace: "data",
            launch: &launch,
            values: Values::Read(&inputs),
            parent: None,
        };
        of(&order).unwrap_err()
    };
    let failure = refused(vec![("X".to_owned(), vec![0xff])]);
    assert!(
        failure.message.contains("variable X is not UTF-8"),
        "{failure:?}"
    );
    let failure = refused(vec![("X".to_owned(), vec![b'x'; 2 << 20])]);
    assert_eq!(failure.reason, "ObjectTooLarge");
}
