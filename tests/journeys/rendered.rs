//! What would be sent to a cluster, and whether a real API server takes it.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::World;

/// The variable that names a cluster of the tests.
const CLUSTER: &str = "FLOWCTL_TEST_KUBECONFIG";
/// Set where a missing cluster is a failure.
const NEEDED: &str = "FLOWCTL_TESTS_NEED_KUBERNETES";
/// How long a cluster may take for a pod. Only a failing test gets there.
const PATIENCE: Duration = Duration::from_secs(120);

/// A pipeline with something of everything. Its programs are those of the tests' image.
const PIPELINE: &str = r#"
apiVersion: flowctl/v1
kind: Pipeline
metadata: {name: shop}
spec:
  driver: kubernetes
  kubernetes: {namespace: NAMESPACE, labels: {team: data}}
  sources:
    - id: orders
      image: docker.io/flowctl-test/busybox:1
      pull: if-not-present
      command: [sh, -c, "echo \"$GREETING\" > /data/index.html; exec httpd -f -p 8080 -h /data"]
      env: {GREETING: "$(HOME) $$"}
      ports: [{containerPort: 8080, name: web}]
      probes: {readiness: {http: {path: /index.html, port: 8080}}}
      resources: {requests: {cpu: 10m, memory: 8Mi}, limits: {memory: 64Mi}}
      volumes: [{tmpfs: true, container_path: /data}]
      replicas: 2
  sinks:
    - id: reader
      image: docker.io/flowctl-test/busybox:1
      pull: if-not-present
      inputs: [orders]
      user: "1000:1000"
      restart: on-failure
      command: [sh, -c, "cat /run/flowctl/secrets/key; until wget -qO- http://${{ components.orders.address }}/; do sleep 1; done"]
      secrets: [{name: key, kubernetes: {secret: given, key: value}, container_path: /etc/key}]
      volumes: [{name: kept, container_path: /kept}]
      kubernetes: {security: restricted, storage: {size: 1Mi}}
"#;

/// A namespace of a real cluster, which goes with it.
struct Cluster {
    kubeconfig: PathBuf,
    namespace: String,
}

impl Cluster {
    /// A new namespace of the tests' cluster; `None`, said loudly, without one.
    fn new(test: &str) -> Option<Self> {
        let Some(kubeconfig) = std::env::var_os(CLUSTER).map(PathBuf::from) else {
            assert!(
                std::env::var_os(NEEDED).is_none(),
                "{NEEDED} is set, and {CLUSTER} names no cluster"
            );
            println!("SKIPPED {test}: {CLUSTER} names no cluster, see tests/kubernetes");
            return None;
        };
        let cluster = Self {
            kubeconfig,
            namespace: format!("t-{}-{test}", std::process::id()),
        };
        cluster.ok(&["create", "namespace", &cluster.namespace], "");
        // The controllers give it one; a pod that comes before is refused.
        let account = ["get", "serviceaccount", "default"];
        cluster.until("the namespace has an account", || {
            cluster.kubectl(&account, "").status.success()
        });
        Some(cluster)
    }

    fn kubectl(&self, words: &[&str], input: &str) -> Output {
        use std::io::Write as _;
        let program = self.kubeconfig.with_file_name("kubectl");
        let mut child = Command::new(program)
            .args(["--kubeconfig", self.kubeconfig.to_str().unwrap()])
            .args(["--namespace", &self.namespace])
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).unwrap();
        drop(stdin);
        child.wait_with_output().unwrap()
    }

    fn ok(&self, words: &[&str], input: &str) -> String {
        let output = self.kubectl(words, input);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "kubectl {words:?}: {said}\n{input}"
        );
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, words: &[&str]) -> Value {
        let words: Vec<&str> = words.iter().copied().chain(["-o", "json"]).collect();
        serde_json::from_str(&self.ok(&words, "")).unwrap()
    }

    fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so() {
            let events = self.kubectl(&["get", "events"], "");
            let events = String::from_utf8_lossy(&events.stdout).into_owned();
            assert!(
                Instant::now() < deadline,
                "not within {PATIENCE:?}: {what}\n{events}"
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn log_of(&self, component: &str) -> String {
        let of = format!("flowctl.dev/component={component}");
        let output = self.kubectl(&["logs", "--selector", &of, "--tail=-1"], "");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let words = ["delete", "namespace", &self.namespace, "--wait=false"];
        let output = self.kubectl(&words, "");
        if !output.status.success() {
            println!("namespace {} stays", self.namespace);
        }
    }
}

fn world(namespace: &str) -> World {
    let world = World::new();
    world.write("shop.yaml", &PIPELINE.replace("NAMESPACE", namespace));
    world
}

#[test]
fn a_pipeline_is_rendered_without_a_cluster_and_without_secrets() {
    let mut world = World::new();
    world.set("FLOWCTL_TESTS_SECRET", "hunter2");
    world.write(
        "p.yaml",
        "apiVersion: flowctl/v1\nkind: Pipeline\nmetadata: {name: p}\nspec:\n  sources: [{id: a, image: x, secrets: [{name: s, env: FLOWCTL_TESTS_SECRET}]}]\n",
    );
    let said = world.fails(2, &["render", "p.yaml"]);
    assert!(said.contains("--driver kubernetes"), "{said}");
    let text = world.ok(&["render", "--driver", "kubernetes", "p.yaml"]);
    for words in [
        "kind: ConfigMap",
        "kind: Secret",
        "kind: Job",
        "namespace: default",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(!text.contains("hunter2"), "{text}");
    let words = ["render", "--driver", "k8s", "-o", "json", "p.yaml"];
    let list: Value = serde_json::from_str(&world.ok(&words)).unwrap();
    assert_eq!(list["kind"], "List");
    assert_eq!(list["items"].as_array().unwrap().len(), 3);
}

#[test]
fn what_a_cluster_needs_for_flowctl_is_printed_for_one_namespace() {
    let world = World::new();
    world.fails(2, &["kubernetes", "manifest"]);
    let words = [
        "kubernetes",
        "manifest",
        "--namespace",
        "data",
        "--image",
        "r.example/f:1",
    ];
    let text = world.ok(&words);
    for words in [
        "kind: Role\n",
        "kind: StatefulSet",
        "image: \"r.example/f:1\"",
        "flowctl.data.svc",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    if let Some(cluster) = Cluster::new("inside") {
        let words = ["kubernetes", "manifest", "--namespace", &cluster.namespace];
        let text = world.ok(&words);
        cluster.ok(&["apply", "--dry-run=server", "-f", "-"], &text);
        let warn = "pod-security.kubernetes.io/warn=restricted";
        cluster.ok(&["label", "namespace", &cluster.namespace, warn], "");
        let pods = cluster.kubectl(&["apply", "--dry-run=server", "-f", "-"], &text);
        let said = String::from_utf8_lossy(&pods.stderr);
        assert!(!said.contains("PodSecurity"), "{said}");
    }
}

#[test]
fn a_real_cluster_runs_what_is_rendered() {
    let Some(cluster) = Cluster::new("runs") else {
        return;
    };
    let world = world(&cluster.namespace);
    world.ok(&["validate", "shop.yaml", "--deny-warnings"]);
    let objects = world.ok(&["render", "shop.yaml"]);
    let secret = [
        "create",
        "secret",
        "generic",
        "given",
        "--from-literal=value=opened",
    ];
    cluster.ok(&secret, "");
    // Nothing that is sent is dropped or doubted.
    let dry = cluster.kubectl(
        &["create", "--dry-run=server", "--validate=strict", "-f", "-"],
        &objects,
    );
    let said = String::from_utf8_lossy(&dry.stderr);
    assert!(
        dry.status.success() && !said.contains("Warning"),
        "{said}\n{objects}"
    );
    cluster.ok(&["create", "-f", "-"], &objects);
    cluster.until("the sink has read from the source", || {
        // What the program was told arrives as it was written.
        cluster.log_of("reader").contains("opened$(HOME) $$")
    });
    let of = "flowctl.dev/component=reader";
    let jobs = cluster.json(&["get", "jobs", "--selector", of]);
    assert_eq!(jobs["items"][0]["spec"]["backoffLimit"], 0);
    cluster.until("both replicas are ready", || {
        let of = "flowctl.dev/component=orders";
        let pods = cluster.json(&["get", "pods", "--selector", of]);
        let ready = |pod: &Value| {
            let conditions = pod["status"]["conditions"].as_array();
            conditions.is_some_and(|all| {
                all.iter()
                    .any(|it| it["type"] == "Ready" && it["status"] == "True")
            })
        };
        pods["items"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|pod| ready(pod))
            .count()
            == 2
    });
    let job = jobs["items"][0]["metadata"]["name"].as_str().unwrap();
    cluster.until("the sink's job is complete", || {
        cluster.json(&["get", "job", job])["status"]["succeeded"] == 1
    });
}

/// The image of this program in the cluster, for as long as a test needs it.
struct Image<'a> {
    cluster: &'a Cluster,
    name: String,
}

impl<'a> Image<'a> {
    fn import(cluster: &'a Cluster, archive: &std::path::Path, name: &str) -> Self {
        let image = Self {
            cluster,
            name: name.to_owned(),
        };
        image.ctr(&["images", "import", archive.to_str().unwrap()]);
        image
    }

    fn ctr(&self, words: &[&str]) {
        let socket = self.cluster.kubeconfig.with_file_name("containerd.sock");
        let output = Command::new("ctr")
            .args([
                "--address",
                socket.to_str().unwrap(),
                "--namespace",
                "k8s.io",
            ])
            .args(words)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ctr {words:?}: {said}");
    }
}

impl Drop for Image<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let name = format!("docker.io/library/{}", self.name);
            self.ctr(&["images", "remove", &name]);
        }
    }
}

const INSIDE: &str = r#"
apiVersion: flowctl/v1
kind: Pipeline
metadata: {name: shop}
spec:
  driver: kubernetes
  kubernetes: {security: restricted}
  sources:
    - id: orders
      image: docker.io/flowctl-test/busybox:1
      pull: if-not-present
      user: "1000"
      command: [sh, -c, "trap exit TERM; mkdir /tmp/w; echo hi > /tmp/w/ready; httpd -f -p 8080 -h /tmp/w & wait"]
      ports: [{containerPort: 8080}]
      probes: {readiness: {http: {path: /ready, port: 8080}}}
  sinks:
    - id: reader
      image: docker.io/flowctl-test/busybox:1
      pull: if-not-present
      user: "1000"
      inputs: [orders]
      restart: on-failure
      command: [sh, -c, "test -s $COMPONENT_TOKEN_FILE && echo told $FLOWCTL_ENDPOINT && wget -qO- http://${{ components.orders.address }}/ready"]
"#;

#[test]
fn a_daemon_in_a_restricted_namespace_runs_a_pipeline_and_dies_without_anybody_noticing() {
    let Some(cluster) = Cluster::new("within") else {
        return;
    };
    let enforce = "pod-security.kubernetes.io/enforce=restricted";
    cluster.ok(&["label", "namespace", &cluster.namespace, enforce], "");
    let world = World::new();
    let name = format!("flowctl:test-{}", std::process::id());
    world.ok(&["kubernetes", "image", "-o", "flowctl.tar", "--image", &name]);
    let _image = Image::import(&cluster, &world.path("flowctl.tar"), &name);
    let manifest = [
        "kubernetes",
        "manifest",
        "--namespace",
        &cluster.namespace,
        "--image",
        &name,
    ];
    cluster.ok(&["apply", "-f", "-"], &world.ok(&manifest));
    let flowctl = |words: &[&str], input: &str| {
        let all: Vec<&str> = ["exec", "-i", "flowctl-0", "--", "flowctl"]
            .into_iter()
            .chain(words.iter().copied())
            .collect();
        let output = cluster.kubectl(&all, input);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (
            output.status.success(),
            String::from_utf8(output.stdout).unwrap(),
            said,
        )
    };
    let answers = || {
        let pod = cluster.kubectl(&["get", "pod", "flowctl-0", "-o", "json"], "");
        let pod: Value = serde_json::from_slice(&pod.stdout).unwrap_or_default();
        pod["metadata"]["deletionTimestamp"].is_null() && flowctl(&["status"], "").0
    };
    cluster.until("the daemon answers", answers);
    let (done, _, said) = flowctl(&["apply", "-f", "-", "--wait", "--timeout", "110s"], INSIDE);
    assert!(done, "{said}");
    cluster.until("the sink has read from the source and is done", || {
        let of = ["status", "-o", "json"];
        let status: Value = serde_json::from_str(&flowctl(&of, "").1).unwrap_or_default();
        let components = status["pipelines"][0]["components"].as_array().cloned();
        let reader = components
            .unwrap_or_default()
            .into_iter()
            .find(|it| it["id"] == "reader");
        reader.is_some_and(|it| it["replicas"][0]["phase"] == "completed")
    });
    let (_, log, _) = flowctl(&["logs", "reader"], "");
    let told = format!("told flowctl.{}.svc:8080", cluster.namespace);
    assert!(log.contains(&told) && log.contains("hi"), "{log}");
    let pod = || {
        let of = "flowctl.dev/component=orders";
        let pods = cluster.json(&["get", "pods", "--selector", of]);
        pods["items"][0]["metadata"]["uid"]
            .as_str()
            .map(str::to_owned)
    };
    let before = pod();
    assert!(before.is_some());
    cluster.ok(&["delete", "pod", "flowctl-0", "--grace-period=1"], "");
    cluster.until("the next daemon answers", answers);
    cluster.until("the next daemon has found what runs", || {
        flowctl(&["status", "--check"], "").0
    });
    assert_eq!(pod(), before, "it ran on");
    let (done, _, said) = flowctl(&["delete", "shop"], "");
    assert!(done, "{said}");
    cluster.until("nothing is left", || {
        let kinds = "jobs,pods,services,secrets,configmaps";
        let left = cluster.json(&["get", kinds, "--selector", "flowctl.dev/pipeline=shop"]);
        left["items"].as_array().unwrap().is_empty()
    });
}
