//! Images from a registry of the tests' own.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bollard::query_parameters::{PushImageOptions, RemoveImageOptions, TagImageOptions};
use futures_util::StreamExt;

use super::*;
use crate::driver::conformance::{eventually_exits, launch};
use crate::model::{ExitStatus, ImagePullPolicy};

/// Debian's docker-registry on a free port of loopback.
struct Registry {
    server: Child,
    address: String,
}

impl Registry {
    fn start(root: &Path) -> Self {
        let address = format!("127.0.0.1:{}", free_port());
        let config = root.join("registry.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: {address}\n",
            root.join("registry").display()
        );
        std::fs::write(&config, text).unwrap();
        let server = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry is installed");
        Self { server, address }
    }

    fn stop(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}

#[tokio::test]
async fn an_image_is_pulled_run_by_digest_and_used_when_its_registry_is_gone() {
    let Some(stage) = DockerStage::new() else {
        return;
    };
    let mut registry = Registry::start(stage.root.path());
    let client = stage.driver.inner.engine.client().unwrap();
    let repository = format!("{}/{}", registry.address, stage.mark);
    let tag = TagImageOptions {
        repo: Some(repository.clone()),
        tag: Some("latest".to_owned()),
    };
    client.tag_image(IMAGE, Some(tag)).await.unwrap();
    let image = format!("{repository}:latest");
    for attempt in 0.. {
        let push = PushImageOptions {
            tag: Some("latest".to_owned()),
            ..PushImageOptions::default()
        };
        let pushed: Vec<_> = client
            .push_image(&repository, Some(push), Some(Default::default()))
            .collect()
            .await;
        if pushed.iter().all(Result::is_ok) {
            break;
        }
        assert!(attempt < 50, "{pushed:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let options = RemoveImageOptions::default();
    client
        .remove_image(&image, Some(options), None)
        .await
        .unwrap();

    for run in 1..=2 {
        let mut spec = stage.container("pulled", &["true"]);
        if let Workload::Docker(container) = &mut spec.workload {
            container.image.clone_from(&image);
            container.pull = Some(ImagePullPolicy::Always);
        }
        let launch = launch(spec, run);
        stage.driver.start(&launch).await.unwrap();
        let status = eventually_exits(&*stage.driver, &launch.instance).await;
        assert_eq!(status, ExitStatus::Code(0));
        let id = stage
            .driver
            .find(&launch.instance)
            .await
            .unwrap()
            .unwrap()
            .id;
        let inspected = stage
            .driver
            .inner
            .engine
            .container(&id)
            .await
            .unwrap()
            .unwrap();
        let config = inspected.config.unwrap();
        let by_digest = format!("{repository}@sha256:");
        assert!(config.image.unwrap().starts_with(&by_digest));
        assert!(config.labels.unwrap()[identity::IMAGE].starts_with(&by_digest));
        stage.driver.forget(&launch.instance).await.unwrap();
        if run == 1 {
            // The second run is not held up by a registry that is down.
            registry.stop();
        }
    }
    stage.end().await;
    client
        .remove_image(&image, None::<RemoveImageOptions>, None)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_link_that_is_swapped_during_a_pull_is_judged_by_where_it_leads_after_it() {
    let Some(stage) = DockerStage::new() else {
        return;
    };
    let (link, own) = (stage.folder().join("link"), stage.folder().join("own"));
    std::fs::create_dir(&own).unwrap();
    std::os::unix::fs::symlink(&own, &link).unwrap();
    // Whoever is asked for the image swaps the link, and says nothing.
    let registry = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = registry.local_addr().unwrap();
    let swapped = link.clone();
    std::thread::spawn(move || {
        for asks in registry.incoming() {
            if std::fs::read_link(&swapped).is_ok_and(|leads_to| leads_to == own) {
                std::fs::remove_file(&swapped).unwrap();
                std::os::unix::fs::symlink("/etc", &swapped).unwrap();
            }
            drop(asks);
        }
    });
    let client = stage.driver.inner.engine.client().unwrap();
    let repository = format!("{address}/{}", stage.mark);
    let tag = TagImageOptions {
        repo: Some(repository.clone()),
        tag: Some("1".to_owned()),
    };
    client.tag_image(IMAGE, Some(tag)).await.unwrap();
    let image = format!("{repository}:1");
    let mut spec = stage.container("swapped", &["sleep", "1000"]);
    spec.volumes[0].source = VolumeSource::Bind(link.clone());
    if let Workload::Docker(container) = &mut spec.workload {
        container.image.clone_from(&image);
        container.pull = Some(ImagePullPolicy::Always);
    }
    match stage.driver.start(&launch(spec, 1)).await {
        Err(DriverError::Refused(failure)) => assert_eq!(failure.reason, "PrivilegedRefused"),
        answer => panic!("{answer:?}"),
    }
    let leads_to = std::fs::read_link(&link).unwrap();
    assert_eq!(leads_to, Path::new("/etc"), "it was asked for the image");
    stage.end().await;
    client
        .remove_image(&image, None::<RemoveImageOptions>, None)
        .await
        .unwrap();
}
