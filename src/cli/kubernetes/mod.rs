//! `flowctl kubernetes`: what a cluster needs for flowctl to run in it.

mod image;

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

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
            let image = named(image)?;
            cx.out.put(&manifest(namespace.as_str(), &image))?;
        }
        KubernetesVerb::Prepare { folder } => prepare(&folder)?,
        KubernetesVerb::Image { output, image } => {
            let image = named(image)?;
            let size = image::write(&output, &image)?;
            let file = output.display();
            cx.out.put(&format!(
                "{file}: image {image}, {} MB; `docker load -i {file}`, or `ctr -n k8s.io images import {file}`\n",
                size / 1_000_000
            ))?;
        }
    }
    Ok(Exit::Done)
}

/// Makes a folder of ours alone; one that is there already becomes that, unless it is somebody else's.
fn prepare(folder: &Path) -> Result<(), Failure> {
    let failed = |source| Failure::File {
        operation: "make",
        path: folder.to_path_buf(),
        source,
    };
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        Ok(()) | Err(_) => {}
    }
    fs::set_permissions(folder, Permissions::from_mode(0o700)).map_err(failed)
}

/// The image that is meant; without a word this version's.
fn named(image: Option<String>) -> Result<String, Failure> {
    let image = image.unwrap_or_else(|| format!("flowctl:{}", env!("CARGO_PKG_VERSION")));
    if image.is_empty() || image.contains(|c: char| c.is_whitespace() || c.is_control()) {
        let message = format!("`{image}` is not the name of an image");
        return Err(Failure::Usage(message));
    }
    Ok(image)
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
    fn a_folder_in_a_volume_of_a_group_becomes_ours_alone() {
        let volume = tempfile::tempdir().unwrap();
        fs::set_permissions(volume.path(), Permissions::from_mode(0o2775)).unwrap();
        let folder = volume.path().join("state");
        for mode in [0o2775, 0o700] {
            prepare(&folder).unwrap();
            let found = fs::metadata(&folder).unwrap().permissions().mode();
            assert_eq!(found & 0o777, 0o700);
            fs::set_permissions(&folder, Permissions::from_mode(mode)).unwrap();
        }
        assert!(prepare(&volume.path().join("no/such")).is_err());
    }

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
