//! Small valid values for the tests of all rooms.

use std::collections::BTreeMap;

use super::*;

/// A process component of revision `hash` that depends on `after` being ready.
pub(crate) fn component(id: &str, hash: u64, after: &[&str]) -> ComponentSpec {
    ComponentSpec {
        id: id.parse().unwrap(),
        role: Role::Processor,
        hash: SpecHash::new(format!("v1:{hash:016x}")),
        workload: Workload::Process(ProcessSpec {
            program: "true".into(),
            args: vec![],
            working_dir: "/".into(),
        }),
        kind: None,
        env: BTreeMap::new(),
        env_file: vec![],
        inherit_env: vec![],
        inputs: vec![],
        dependencies: after
            .iter()
            .map(|id| Dependency {
                id: id.parse().unwrap(),
                condition: Condition::Ready,
            })
            .collect(),
        ports: vec![],
        probes: Probes::default(),
        progress: None,
        restart: RestartPolicy::default(),
        stop: StopPolicy::default(),
        ready_after: HumanDuration::from_secs(1),
        replicas: 1,
        resources: Resources::default(),
        rlimits: Rlimits::default(),
        volumes: vec![],
        secrets: vec![],
        user: None,
        umask: Umask::default(),
        allow_new_privileges: false,
        logs: LogLimits::default(),
        input_event_types: vec![],
        output_event_types: vec![],
        registration: Registration::Optional,
        config: None,
    }
}

/// What runs in a container of some image.
pub(crate) fn container() -> Workload {
    Workload::Docker(ContainerSpec {
        image: "a:1".to_owned(),
        command: None,
        args: vec![],
        working_dir: None,
        pull: None,
        network: None,
        verify: None,
    })
}

/// What runs as a pod of some image.
pub(crate) fn pod() -> Workload {
    let Workload::Docker(container) = container() else {
        unreachable!("a container is one");
    };
    Workload::Kubernetes(KubernetesSpec {
        container,
        namespace: None,
        options: KubernetesOptions::default(),
    })
}

/// A daemon of no version in `/`, at the beginning of time.
pub(crate) fn daemon() -> DaemonStatus {
    DaemonStatus {
        version: String::new(),
        pid: 1,
        started_at: Timestamp::default(),
        state_dir: "/".into(),
        durable: true,
        durable_why: None,
        control_plane: None,
    }
}

/// The pipeline `p` of these components.
pub(crate) fn pipeline(components: Vec<ComponentSpec>) -> PipelineSpec {
    PipelineSpec {
        key: PipelineKey {
            namespace: Namespace::default(),
            name: "p".parse().unwrap(),
        },
        description: None,
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        network: None,
        notify: Vec::new(),
        components: components.into_iter().map(|c| (c.id.clone(), c)).collect(),
    }
}
