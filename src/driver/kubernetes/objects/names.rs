//! What the objects of a pipeline are called. Every name follows from what it stands for alone, so that
//! whoever starts the same thing again meets what the first one made.

use crate::model::kubernetes::{digest_of, fitted, short, stem};
use crate::model::{ComponentId, InstanceId, Namespace, PipelineKey, ReplicaKey};

/// The longest name of a Job: the names of its pods, which the cluster makes of it, keep it whole.
const LONGEST_JOB: usize = 57;
/// Of those, what the pipeline and the component get.
const LONGEST_STEM: usize = 38;
/// The longest DNS label.
const LONGEST: usize = 63;

/// The Job of an instance. The name is the lock against a second start, whoever starts it: the daemon is
/// not in it.
pub fn job(instance: &InstanceId) -> String {
    let InstanceId {
        pipeline: PipelineKey { namespace, name },
        replica: ReplicaKey { component, replica },
        incarnation,
    } = instance;
    let (replica, incarnation) = (replica.to_string(), incarnation.to_string());
    let hash = short(&[
        namespace.as_str(),
        name.as_str(),
        component.as_str(),
        &replica,
        &incarnation,
    ]);
    let end = format!("-{replica}-{incarnation}-{hash}");
    let room = LONGEST_STEM.min(LONGEST_JOB.saturating_sub(end.len()));
    let whole = format!("{name}-{component}");
    let whole = match whole.starts_with(|first: char| first.is_ascii_alphabetic()) {
        true => whole,
        false => format!("f-{whole}"),
    };
    let kept = whole.get(..room).unwrap_or(&whole).trim_end_matches('-');
    format!("{kept}{end}")
}

/// The ConfigMap that all other objects of a pipeline belong to.
pub fn parent(pipeline: &PipelineKey) -> String {
    let PipelineKey { namespace, name } = pipeline;
    match *namespace == Namespace::default() {
        true => format!("flowctl-{name}"),
        // No label has a dot, so that this is no pipeline of the default namespace.
        false => format!("flowctl-{namespace}.{name}"),
    }
}

/// The Service under which each replica has a name of its own.
pub fn headless(pipeline: &PipelineKey, component: &ComponentId) -> String {
    fitted(&stem(pipeline, &format!("{component}-pods")), LONGEST)
}

/// The Secret that holds the token of a replica. It outlives its runs.
pub fn token(pipeline: &PipelineKey, replica: &ReplicaKey) -> String {
    let ReplicaKey { component, replica } = replica;
    fitted(
        &stem(pipeline, &format!("{component}-{replica}-token")),
        LONGEST,
    )
}

/// The Secret that holds these values of a component: other values are another one, so that a run keeps
/// what it began with.
pub fn secret(pipeline: &PipelineKey, component: &ComponentId, contents: &[&str]) -> String {
    let mut end = digest_of(contents);
    end.truncate(10);
    let begin = fitted(&stem(pipeline, component.as_str()), LONGEST - 11);
    format!("{begin}-{end}")
}

/// The PersistentVolumeClaim of a volume that components of the pipeline name.
pub fn claim(pipeline: &PipelineKey, volume: &str) -> String {
    fitted(&stem(pipeline, &labelled(volume)), LONGEST)
}

/// The host name of a replica.
pub fn host(replica: &ReplicaKey) -> String {
    let name = format!("{}-{}", replica.component, replica.replica);
    match name.len() <= LONGEST {
        true => name,
        false => fitted(&name, LONGEST),
    }
}

/// `name` as a part of a DNS label; one that is none by itself ends with a digest, so that `a.b` and
/// `a-b` stay two.
fn labelled(name: &str) -> String {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.chars().all(fits) && !name.starts_with('-') && !name.ends_with('-') {
        return name.to_owned();
    }
    let kept: String = name
        .to_lowercase()
        .chars()
        .map(|c| if fits(c) { c } else { '-' })
        .collect();
    format!("{}-{}", kept.trim_matches('-'), short(&[name]))
}

/// The name of a port of a container: at most 15 letters, digits and dashes.
pub fn container_port(name: &str) -> String {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let is_one = (1..=15).contains(&name.len())
        && name.chars().all(fits)
        && name.contains(|c: char| c.is_ascii_lowercase())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--");
    if is_one {
        return name.to_owned();
    }
    let plain = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let kept: String = name.to_lowercase().chars().filter(plain).take(7).collect();
    format!("p{kept}-{}", short(&[name]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(text: &str) -> InstanceId {
        text.parse().unwrap()
    }

    #[test]
    fn a_job_is_called_by_what_it_runs() {
        let name = job(&instance("default.ttp.ttp-processor.0.17"));
        assert!(name.starts_with("ttp-ttp-processor-0-17-"), "{name}");
        let again = job(&instance("default.ttp.ttp-processor.0.17"));
        assert_eq!(name, again);
        for other in [
            "team.ttp.ttp-processor.0.17",
            "default.ttp.ttp-processor.0.18",
            "default.ttp.ttp-processor.1.17",
            "default.ttp-ttp.processor.0.17",
        ] {
            assert_ne!(job(&instance(other)), name, "{other}");
        }
    }

    #[test]
    fn the_pods_of_a_job_keep_its_name_whole() {
        let long = "x".repeat(63);
        for text in [
            format!("{long}.{long}.{long}.999.18446744073709551615"),
            "default.9.0.0.1".to_owned(),
            format!("default.{}-a.b.0.1", "y".repeat(36)),
        ] {
            let name = job(&instance(&text));
            assert!(name.len() <= 57, "{name}");
            assert!(name.starts_with(|first: char| first.is_ascii_alphabetic()));
            assert!(!name.contains("--"), "{name}");
        }
    }

    #[test]
    fn a_port_has_a_name_that_the_cluster_takes() {
        assert_eq!(container_port("web"), "web");
        for odd in ["Web_UI", "a-name-that-is-too-long", "8080", "-a", "ä"] {
            let name = container_port(odd);
            assert!(name.len() <= 15, "{name}");
            assert_eq!(container_port(&name), name, "{odd}");
        }
    }

    #[test]
    fn other_contents_are_another_secret_and_other_volumes_another_claim() {
        let pipeline = instance("default.p.a.0.1").pipeline;
        let component = "a".parse().unwrap();
        let one = secret(&pipeline, &component, &["key", "1"]);
        assert_ne!(one, secret(&pipeline, &component, &["key", "2"]));
        assert_eq!(claim(&pipeline, "data"), "p-data");
        assert_ne!(claim(&pipeline, "a.b"), claim(&pipeline, "a-b"));
    }
}
