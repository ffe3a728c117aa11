//! `flowctl kubernetes`: what a cluster needs for flowctl to run in it.

use super::Stateless;
use super::args::{Kubernetes, KubernetesVerb};
use super::exit::{Exit, Failure};
use crate::driver::kubernetes::RIGHTS;

const TEMPLATE: &str = include_str!("manifest.yaml");

pub(super) fn run(cx: &mut Stateless<'_>, args: Kubernetes) -> Result<Exit, Failure> {
    match args.verb {
        KubernetesVerb::Manifest { image } => {
            let Some(namespace) = &cx.global.namespace else {
                let message = "in which namespace of the cluster? write `--namespace NAME`";
                return Err(Failure::Usage(message.to_owned()));
            };
            let image = image.unwrap_or_else(|| format!("flowctl:{}", env!("CARGO_PKG_VERSION")));
            if image.is_empty() || image.contains(|c: char| c.is_whitespace() || c.is_control()) {
                return Err(Failure::Usage(format!(
                    "`{image}` is not the name of an image"
                )));
            }
            cx.out.put(&manifest(namespace.as_str(), &image))?;
            Ok(Exit::Done)
        }
    }
}

/// What `kubectl apply` takes.
fn manifest(namespace: &str, image: &str) -> String {
    // Quoted, since a name may read like another type: a tag, a digest, a port.
    let image = serde_json::Value::from(image).to_string();
    TEMPLATE
        .replace("{rules}", &rules())
        .replace("{namespace}", namespace)
        .replace("{image}", &image)
}

fn rules() -> String {
    let list = |words: &[&str]| words.join(", ");
    let rules = RIGHTS.iter().map(|right| {
        format!(
            "# To {}.\n- {{apiGroups: [\"{}\"], resources: [{}], verbs: [{}]}}\n",
            right.purpose,
            right.group,
            list(right.resources),
            list(right.verbs)
        )
    });
    rules.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemon_may_do_no_more_than_its_driver_does() {
        let text = manifest("data", "registry.example/flowctl:1");
        for verb in [
            "\"*\"",
            "escalate",
            "bind",
            "impersonate",
            "ClusterRole",
            "pods/exec",
        ] {
            assert!(!text.contains(verb), "{verb}");
        }
        let secrets = text
            .lines()
            .find(|line| line.contains("[secrets]"))
            .unwrap();
        assert!(
            !secrets.contains("list") && !secrets.contains("watch"),
            "{secrets}"
        );
        assert!(
            text.contains("image: \"registry.example/flowctl:1\""),
            "{text}"
        );
        for left in ["{namespace}", "{image}", "{rules}"] {
            assert!(!text.contains(left), "{left}");
        }
    }
}
