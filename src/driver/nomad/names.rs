//! What things of ours are called in a cluster, and how they are known again. Pure.

use crate::driver::{Description, Launch};
use crate::model::{ComponentSpec, Generation, InstanceId, path};
use serde::{Deserialize, Serialize};

use super::wire::Job;

/// The group and the task of every job, and the name of its version's tag.
pub(super) const MAIN: &str = "main";
pub(super) const TAG: &str = "flowctl";
/// Meta of every job: letters, digits and underscores alone can be asked for in a filter. Each is a
/// variable of the program, too.
pub(super) const OWNER: &str = "flowctl_owner";
pub(super) const INSTANCE: &str = "flowctl_instance";
pub(super) const SPEC_HASH: &str = "flowctl_spec_hash";
pub(super) const GENERATION: &str = "flowctl_generation";
pub(super) const STARTED_FROM: &str = "flowctl_started_from";
const SCHEMA: &str = "flowctl_schema";
/// The present form of the meta.
const FORM: &str = "1";
/// The kernel takes no longer variable than 128 KiB.
const LARGEST: usize = 100 << 10;

/// FNV-1a: short, and the same in each release.
fn digest(text: &str) -> u64 {
    let start = 0xcbf2_9ce4_8422_2325_u64;
    text.bytes().fold(start, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// What ends the id of every job of `owner`.
pub(super) fn suffix(owner: &str) -> String {
    format!("{:07x}", digest(owner) & 0x0fff_ffff)
}

/// The id of the job of `instance`: it tells people what it is, is no other instance's, and ends as all
/// of `owner` do. It is a DNS label.
pub(super) fn job(owner: &str, instance: &InstanceId) -> String {
    let run = format!("{}-r{}", instance.replica.replica, instance.incarnation);
    let own = format!("{:05x}", digest(&instance.to_string()) & 0x000f_ffff);
    // 63 letters are a label's, of which these two and the digests leave some.
    let room = 63_usize.saturating_sub(run.len() + own.len() + 7 + 3);
    let name = format!("{}-{}", instance.pipeline.name, instance.replica.component);
    let name: String = name.chars().take(room).collect();
    format!(
        "{}-{run}-{own}{}",
        name.trim_end_matches('-'),
        suffix(owner)
    )
}

/// What the job of `instance` is called, which groups the runs of a replica for people.
pub(super) fn title(instance: &InstanceId) -> String {
    let (pipeline, replica) = (&instance.pipeline.name, &instance.replica);
    format!("{pipeline}-{}-{}", replica.component, replica.replica)
}

/// The filter that finds the jobs of `owner`.
pub(super) fn jobs_of(owner: &str) -> String {
    format!("Meta.{OWNER} == {}", quoted(owner))
}

/// The filter that finds the placements of jobs of `owner`.
pub(super) fn placements_of(owner: &str) -> String {
    format!("JobID matches \"-[0-9a-f]{{5}}{}$\"", suffix(owner))
}

/// The filter that finds the placements of one job.
pub(super) fn placements_of_job(job: &str) -> String {
    format!("JobID == {}", quoted(job))
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The path of the variable that the program of `job` may read, and nobody else's.
pub(super) fn variable(job: &str) -> String {
    format!("nomad/jobs/{job}/{MAIN}/{MAIN}")
}

/// What a job says it was started from.
#[derive(Serialize, Deserialize)]
struct StartedFrom<S> {
    spec: S,
    file: Option<String>,
}

/// The meta of a job that `launch` makes.
///
/// # Errors
/// When there is too much of it.
pub(super) fn meta(owner: &str, launch: &Launch) -> Result<serde_json::Value, String> {
    let told = StartedFrom {
        spec: &*launch.spec,
        file: launch
            .file
            .as_deref()
            .map(|file| path::to_text(file).into_owned()),
    };
    let told = serde_json::to_string(&told).map_err(|error| error.to_string())?;
    if told.len() > LARGEST {
        return Err(format!(
            "its definition has {} KiB, and a job of Nomad's says what it was started from in at \
             most {} KiB: put long texts into a file",
            told.len() >> 10,
            LARGEST >> 10
        ));
    }
    Ok(serde_json::json!({
        OWNER: owner,
        INSTANCE: launch.instance.to_string(),
        GENERATION: launch.generation.to_string(),
        SPEC_HASH: launch.spec.hash.as_str(),
        STARTED_FROM: told,
        SCHEMA: FORM,
    }))
}

/// The instance that `job` is of.
pub(super) fn instance(job: &Job) -> Option<InstanceId> {
    job.meta.get(INSTANCE)?.parse().ok()
}

/// What a job of ours was started from.
///
/// # Errors
/// What of its meta cannot be understood.
pub(super) fn read(job: &Job) -> Result<Description, String> {
    let get = |key: &str| {
        let found = job.meta.get(key);
        found.ok_or_else(|| format!("its meta {key} is missing"))
    };
    let instance = get(INSTANCE)?;
    let instance = instance
        .parse()
        .map_err(|error| format!("its meta {INSTANCE}: {error}"))?;
    let generation = get(GENERATION)?
        .parse()
        .map_err(|error| format!("its meta {GENERATION}: {error}"))?;
    let told: StartedFrom<ComponentSpec> = serde_json::from_str(get(STARTED_FROM)?)
        .map_err(|error| format!("its meta {STARTED_FROM}: {error}"))?;
    Ok(Description {
        instance,
        spec: told.spec.into(),
        generation: Generation(generation),
        file: told.file.map(|text| path::from_text(&text)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::conformance;

    fn instance(text: &str) -> InstanceId {
        text.parse().unwrap()
    }

    #[test]
    fn an_id_says_what_it_is_and_is_one_instances_alone() {
        let id = job("host", &instance("default.p.a.0.3"));
        assert!(id.starts_with("p-a-0-r3-"), "{id}");
        assert!(id.ends_with(&suffix("host")), "{id}");
        let ids = [
            ("host", "default.p.a.0.3"),
            ("host", "other.p.a.0.3"),
            ("host", "default.p-a.b.0.3"),
            ("host", "default.p.a-b.0.3"),
            ("else", "default.p.a.0.3"),
        ]
        .map(|(owner, text)| job(owner, &instance(text)));
        let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len(), "{ids:?}");
    }

    #[test]
    fn an_id_is_a_dns_label_however_long_the_names_are() {
        let long = "a".repeat(63);
        let id = job(
            "host",
            &instance(&format!("default.{long}.{long}.12.123456")),
        );
        assert!(id.len() <= 63, "{id}");
        assert!(id.contains("-12-r123456-"), "{id}");
    }

    #[test]
    fn a_job_can_be_described_from_its_meta_alone() {
        let launch = conformance::launch(conformance::spec("a", "program", &["${x}"]), 3);
        let meta = meta("host", &launch).unwrap();
        let job = Job {
            meta: serde_json::from_value(meta).unwrap(),
            ..Job::default()
        };
        let read = read(&job).unwrap();
        assert_eq!(read.instance, launch.instance);
        assert_eq!(read.spec, launch.spec);
        assert_eq!(read.generation, launch.generation);
        assert_eq!(read.file, launch.file);
    }
}
