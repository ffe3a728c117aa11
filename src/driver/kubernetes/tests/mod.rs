//! Against a real cluster. `tests/kubernetes start FOLDER` begins one and prints the variable that
//! these tests find it by; without it they say that they were skipped.

mod lives;
mod verdicts;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::client::Call;
use super::*;
use crate::driver::conformance::{self, Behaviour, Stage, spec};
use crate::model::{
    ComponentSpec, ContainerSpec, ImagePullPolicy, KubernetesOptions, KubernetesSpec, Workload,
};

/// Where the tests' cluster is.
const CLUSTER: &str = "FLOWCTL_TEST_KUBECONFIG";
/// When set, a missing cluster is a failure.
const NEEDED: &str = "FLOWCTL_TESTS_NEED_KUBERNETES";
/// Made by `tests/kubernetes`: a static busybox.
const IMAGE: &str = "flowctl-test/busybox:1";
/// Ends with the code of its signal, as a program that is the first of its container has to see to.
const FOREVER: &str = "trap 'exit 143' TERM; echo prepared; while :; do sleep 1 & wait $!; done";

static STAGES: AtomicU32 = AtomicU32::new(0);

/// The kubeconfig of the tests; `None` = the test is skipped.
fn kubeconfig() -> Option<PathBuf> {
    match std::env::var_os(CLUSTER) {
        Some(path) => Some(path.into()),
        None => {
            let needed = std::env::var_os(NEEDED).is_some();
            assert!(
                !needed,
                "{CLUSTER} is not set: run `tests/kubernetes start FOLDER`"
            );
            eprintln!("SKIPPED: {CLUSTER} is not set, so nothing was started on a cluster");
            None
        }
    }
}

/// A state directory, an owner and a namespace of its own, on the cluster that all tests share.
struct ClusterStage {
    root: tempfile::TempDir,
    namespace: String,
    kubeconfig: PathBuf,
    driver: Arc<KubernetesDriver>,
}

fn open(root: &tempfile::TempDir, namespace: &str, kubeconfig: &Path) -> Arc<KubernetesDriver> {
    let config = KubernetesConfig {
        cluster: ClusterChoice {
            kubeconfig: Some(kubeconfig.to_path_buf()),
            context: None,
            namespace: Some(namespace.to_owned()),
        },
        state_dir: root.path().to_owned(),
        owner: namespace.to_owned(),
        conduct: Conduct::Tends,
        gate: Arc::new(Gate::open()),
    };
    KubernetesDriver::new(config, Clock::new())
}

impl ClusterStage {
    /// `None` without a cluster.
    async fn new() -> Option<Self> {
        let kubeconfig = kubeconfig()?;
        let root = tempfile::tempdir().unwrap();
        let number = STAGES.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("t{}-{number}", std::process::id());
        let stage = Self {
            driver: open(&root, &namespace, &kubeconfig),
            root,
            namespace,
            kubeconfig,
        };
        let body = json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": stage.namespace},
        });
        let path = "/api/v1/namespaces".to_owned();
        stage
            .api()
            .await
            .tell(Call::create(path, &body))
            .await
            .unwrap();
        stage.service_account().await;
        Some(stage)
    }

    async fn api(&self) -> Arc<Api> {
        Arc::clone(self.driver.inner.api().await.unwrap())
    }

    /// Waits until pods may be made in the namespace.
    async fn service_account(&self) {
        let path = format!(
            "/api/v1/namespaces/{}/serviceaccounts/default",
            self.namespace
        );
        let api = self.api().await;
        for _ in 0..600 {
            if api.call::<Value>(Call::get(path.clone())).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the namespace never got its service account");
    }

    /// A component that runs `command` in the tests' image.
    fn pod(&self, id: &str, command: &[&str]) -> ComponentSpec {
        let mut spec = spec(id, "unused", &[]);
        spec.workload = Workload::Kubernetes(KubernetesSpec {
            container: ContainerSpec {
                image: IMAGE.to_owned(),
                command: Some(command.iter().map(|&word| word.to_owned()).collect()),
                args: Vec::new(),
                working_dir: None,
                pull: Some(ImagePullPolicy::Never),
                network: None,
                verify: None,
            },
            namespace: None,
            options: KubernetesOptions::default(),
        });
        spec
    }

    fn shell(&self, id: &str, script: &str) -> ComponentSpec {
        self.pod(id, &["sh", "-c", script])
    }

    /// What was copied of a replica's output.
    fn log(&self, id: &str) -> String {
        let dir = logs::replica_dir(
            &self.root.path().join("logs"),
            &conformance::pipeline(),
            &crate::model::ReplicaKey {
                component: id.parse().unwrap(),
                replica: 0,
            },
        );
        let Ok(files) = std::fs::read_dir(dir) else {
            return String::new();
        };
        let texts =
            files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap_or_default());
        texts.collect()
    }

    async fn eventually_logs(&self, id: &str, text: &str) {
        for _ in 0..1_200 {
            if self.log(id).contains(text) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{id} never wrote {text:?}: {:?}", self.log(id));
    }

    /// The objects of a kind in the namespace, by name.
    async fn objects(&self, path: &str) -> BTreeMap<String, Value> {
        let path = format!("{path}?limit=500");
        let list: Value = self.api().await.call(Call::get(path)).await.unwrap();
        let items = list["items"].as_array().unwrap().iter();
        let named = items.map(|item| {
            let name = item["metadata"]["name"].as_str().unwrap().to_owned();
            (name, item.clone())
        });
        named.collect()
    }

    async fn jobs(&self) -> BTreeMap<String, Value> {
        self.objects(&places::jobs_path(&self.namespace)).await
    }

    async fn pods(&self) -> BTreeMap<String, Value> {
        let path = places::core_path(&self.namespace, "pods");
        self.objects(&path).await
    }

    /// Removes all that the test has made.
    async fn end(&self) {
        let options = json!({"propagationPolicy": "Background"});
        let path = format!("/api/v1/namespaces/{}", self.namespace);
        let deleted = self.api().await.tell(Call::delete(path, &options)).await;
        deleted.unwrap();
    }
}

#[async_trait]
impl Stage for ClusterStage {
    fn driver(&self) -> &dyn Driver {
        &*self.driver
    }

    async fn restart(&mut self) {
        self.driver = open(&self.root, &self.namespace, &self.kubeconfig);
    }

    async fn prepared(&self, component: &ComponentSpec) {
        self.eventually_logs(component.id.as_str(), "prepared")
            .await;
    }

    fn component(&mut self, id: &str, behaviour: Behaviour) -> ComponentSpec {
        match behaviour {
            Behaviour::RunsForever => self.shell(id, FOREVER),
            Behaviour::Exits(code) => self.shell(id, &format!("exit {code}")),
            Behaviour::IgnoresSignals => {
                let script = "trap '' TERM; echo prepared; while :; do sleep 1; done";
                self.shell(id, script)
            }
            Behaviour::CannotStart => self.pod(id, &["no-such-program"]),
        }
    }

    fn waiting(&mut self, id: &str) -> Option<ComponentSpec> {
        let mut spec = self.shell(id, FOREVER);
        let Workload::Kubernetes(pod) = &mut spec.workload else {
            unreachable!("it is a pod");
        };
        pod.options
            .node_selector
            .insert(format!("flowctl.test/{}", self.namespace), id.to_owned());
        Some(spec)
    }

    async fn make_room(&self, component: &ComponentSpec) {
        let Workload::Kubernetes(pod) = &component.workload else {
            unreachable!("it is a pod");
        };
        let body = json!({"metadata": {"labels": pod.options.node_selector}});
        for name in self.objects("/api/v1/nodes").await.into_keys() {
            let path = format!("/api/v1/nodes/{name}");
            let api = self.api().await;
            api.tell(Call::patch(&path, &body)).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_keep_the_contract() {
    let Some(mut stage) = ClusterStage::new().await else {
        return;
    };
    conformance::check(&mut stage).await;
    stage.end().await;
}
