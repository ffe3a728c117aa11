//! What a component that Kubernetes runs may say, and what is told of it when it may not.

use super::{HEAD, component, pipeline, read};
use crate::manifest::{Colour, Problems};
use crate::model::{KubernetesOptions, SecurityProfile, StorageAccess, TaintEffect, Workload};

/// What is said of a component of the driver with these fields.
fn said(fields: &str) -> String {
    said_of(&format!(
        "  driver: kubernetes\n  sources: [{{id: a, image: x{fields}}}]\n"
    ))
}

fn said_of(body: &str) -> String {
    let text = format!("{HEAD}{body}");
    let render = |problems: &Problems| problems.render(Colour::Off);
    read(&text).map_or_else(|problems| render(&problems), |it| render(&it.warnings))
}

fn options(body: &str) -> KubernetesOptions {
    let spec = component(body, "a");
    let Workload::Kubernetes(pod) = spec.workload else {
        panic!("it is a pod: {:?}", spec.workload);
    };
    pod.options
}

#[test]
fn a_component_has_what_its_pipeline_says_and_its_own_words_over_it() {
    let options = options(
        "  driver: kubernetes
  kubernetes:
    namespace: data
    service_account: all
    image_pull_secrets: [one]
    security: restricted
    storage: {size: 1Gi}
    node_selector: {zone: a, disk: hdd}
    labels: {team: data}
  sources:
    - id: a
      image: x
      kubernetes:
        service_account: own
        storage: {size: 5Gi, class: fast, access: many-nodes}
        node_selector: {disk: ssd}
        tolerations: [{key: dedicated, effect: NoExecute, seconds: 5}]
",
    );
    assert_eq!(options.service_account.as_deref(), Some("own"));
    assert_eq!(options.image_pull_secrets, ["one"]);
    assert_eq!(options.security, SecurityProfile::Restricted);
    let storage = options.storage.unwrap();
    assert_eq!(
        (storage.size_bytes, storage.class.as_deref()),
        (5 << 30, Some("fast"))
    );
    assert_eq!(storage.access, StorageAccess::ManyNodes);
    let nodes: Vec<_> = options.node_selector.iter().collect();
    let named = [("disk", "ssd"), ("zone", "a")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert_eq!(nodes, named.iter().map(|(a, b)| (a, b)).collect::<Vec<_>>());
    assert_eq!(options.tolerations[0].effect, Some(TaintEffect::NoExecute));
    assert_eq!(options.labels["team"], "data");
}

#[test]
fn another_driver_takes_no_notice_of_what_is_said_for_a_cluster() {
    let said = said_of(
        "  kubernetes: {storage: {size: 1Gi}}\n  sources: [{id: a, command: [x], kubernetes: {security: restricted}}]\n",
    );
    assert_eq!(said, "");
}

#[test]
fn what_a_cluster_cannot_do_is_one_sentence_with_what_to_write() {
    for (fields, words) in [
        (
            ", inherit_env: [\"AWS_*\"]",
            "inherits no variables of the daemon",
        ),
        (", user: nobody", "a pod runs as a number"),
        (", user: \"1000:staff\"", "a pod runs as a number"),
        (
            ", user: root, kubernetes: {security: restricted}",
            "runs nobody as root",
        ),
        (
            ", volumes: [{name: d, container_path: /d}]",
            "nothing says how large volume `d` is",
        ),
        (
            ", replicas: 2, kubernetes: {storage: {size: 1Gi}}, volumes: [{name: d, container_path: /d}]",
            "2 replicas cannot share volume `d`",
        ),
        (
            ", volumes: [{host_path: /srv, container_path: /d}]",
            "`host_path: /srv` is a folder of one machine",
        ),
        (
            ", probes: {readiness: {http: {host: h, path: /, port: 80}}}",
            "asks the pod itself only",
        ),
        (
            ", allow_new_privileges: true, kubernetes: {security: restricted}",
            "lets nobody have new privileges",
        ),
        (
            ", kubernetes: {labels: {app.kubernetes.io/instance: x}}",
            "may delete them",
        ),
        (
            ", kubernetes: {namespace: b}",
            "write it in `spec.kubernetes`",
        ),
        (
            ", kubernetes: {storage: {class: a}}",
            "`storage` has no `size`",
        ),
        (
            ", kubernetes: {tolerations: [{value: a}]}",
            "of every taint has no `value`",
        ),
        (
            ", secrets: [{name: s, file: f, kubernetes: {secret: a, key: b}}]",
            "from the cluster or from this host",
        ),
    ] {
        let said = said(fields);
        assert!(said.contains(words), "{fields}: {said}");
        assert_eq!(said.matches("error:").count(), 1, "{fields}: {said}");
    }
}

#[test]
fn what_a_cluster_does_otherwise_is_a_warning() {
    for (fields, words) in [
        (
            ", ports: [{containerPort: 80, hostPort: 80}]",
            "`hostPort` has no effect on Kubernetes",
        ),
        (", resources: {limits: {pids: 5}}", "`pids` has no effect"),
        (", stop: {signal: INT}", "ContainerStopSignals"),
        (
            ", probes: {readiness: {tcp: 80, period: 500ms}}",
            "rounded up to whole seconds",
        ),
        (
            ", probes: {liveness: {tcp: 80, successes: 2}}",
            "passes once",
        ),
    ] {
        let said = said(fields);
        assert!(said.contains(words), "{fields}: {said}");
        assert_eq!(said.matches("warning:").count(), 1, "{fields}: {said}");
        assert!(!said.contains("error:"), "{fields}: {said}");
    }
    assert_eq!(
        said(", kubernetes: {allow_host_ports: true}, ports: [{containerPort: 80, hostPort: 80}]"),
        ""
    );
    assert_eq!(
        said(
            ", kubernetes: {allow_host_path: true}, volumes: [{host_path: /srv, container_path: /d}]"
        ),
        ""
    );
}

#[test]
fn two_components_on_one_volume_are_told_that_they_go_to_one_node() {
    let component =
        |id| format!("    - {{id: {id}, image: x, volumes: [{{name: d, container_path: /d}}]}}\n");
    let body = |access| {
        format!(
            "  driver: kubernetes\n  kubernetes: {{storage: {{size: 1Gi, access: {access}}}}}\n  sources:\n{}{}",
            component("a"),
            component("b")
        )
    };
    assert!(said_of(&body("one-node")).contains("`a` has volume `d`, too"));
    assert_eq!(said_of(&body("many-nodes")), "");
}

#[test]
fn a_secret_of_a_cluster_is_for_a_component_of_the_cluster() {
    let secret = "secrets: [{name: s, kubernetes: {secret: a, key: b}}]";
    assert_eq!(said(&format!(", {secret}")), "");
    let said = said_of(&format!("  sources: [{{id: a, command: [x], {secret}}}]\n"));
    assert!(
        said.contains("secret `s` is one of a Kubernetes cluster"),
        "{said}"
    );
}

#[test]
fn components_of_a_cluster_reach_each_other_by_their_services() {
    let body = |spec: &str| {
        format!(
            "{spec}  driver: kubernetes\n  sources: [{{id: a, image: x, ports: [{{containerPort: 80}}]}}]\n  sinks: [{{id: b, image: x, env: {{A: \"${{{{ components.a.address }}}}\", H: \"${{{{ components.a.host }}}}\"}}}}]\n"
        )
    };
    let here = pipeline(&body(""));
    assert_eq!(here.components["b"].env["A"], "p-a:80");
    assert_eq!(here.components["b"].env["H"], "p-a");
    let there = pipeline(&body("  kubernetes: {namespace: data}\n"));
    assert_eq!(there.components["b"].env["A"], "p-a.data.svc:80");
}

#[test]
fn no_address_leads_from_a_cluster_to_this_host_or_back() {
    for (from, to) in [("kubernetes", "process"), ("docker", "kubernetes")] {
        let said = said_of(&format!(
            "  sources: [{{id: a, driver: {to}, command: [x], image: x, ports: [{{containerPort: 80}}]}}]\n  sinks: [{{id: b, driver: {from}, command: [x], image: x, env: {{A: \"${{{{ components.a.address }}}}\"}}}}]\n"
        ));
        assert!(
            said.contains("no address leads from one to the other"),
            "{said}"
        );
    }
}
