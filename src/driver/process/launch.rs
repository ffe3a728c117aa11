//! From a launch to the request that a shim can carry out.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use crate::driver::Launch;
use crate::driver::inputs::{Glance, Inputs};
use crate::model::{InstanceId, Probe, ProbeCheck, Probes};

use super::Site;
use super::context::{self, Context};
use super::environment::Marks;
use super::failure::Refusal;
use super::record::{Description, Schema};
use super::weigh::{Item, Overweight};
use super::wire::{MAX_REQUEST, Request};

/// What a start is asked for, and why it should fail, found out from.
pub(super) struct Prepared {
    /// The request for the shim.
    pub(super) request: Vec<u8>,
    /// What the program will find around it.
    pub(super) context: Arc<Context>,
}

/// Makes the instance's file and the request for its shim. Only files are touched: what is left of a
/// failed try is removed with that one.
pub(super) fn prepare(site: &Site, launch: &Launch, inputs: &Inputs) -> Result<Prepared, Refusal> {
    let spec = &launch.spec;
    let process = context::process_of(spec)?;
    let account = context::account_of(spec)?;
    let file = site.file_of(&launch.instance);
    make_file(site, launch, &file)?;
    let owner = account.as_ref().map(|who| (who.uid, who.gid));
    let secrets = site
        .secrets
        .write(&launch.instance, spec, owner, &inputs.secrets)?;
    let marks = Marks {
        file: &file,
        secrets: secrets.as_deref(),
    };
    let context = Context::of(site, launch, account, &marks, &inputs.variables)?;
    let groups = site
        .groups
        .make(&launch.instance, &spec.resources)
        .map_err(|(path, error)| Refusal::Cgroup { path, error })?;
    let argv = context::argv(process, launch.instance.replica.replica);
    let prepared = context.prepare(&argv, &groups.join)?;
    let c_path = |path: &Path| {
        let nul = Overweight::Nul {
            item: Item::WorkingDir,
        };
        CString::new(path.as_os_str().as_bytes()).map_err(|_| Refusal::Overweight(nul))
    };
    let request = Request {
        file: &c_path(&file)?,
        logs: &c_path(&site.logs_of(&launch.instance))?,
        oom: &c_path(groups.oom.as_deref().unwrap_or(Path::new("")))?,
        kill: &c_path(groups.kill.as_deref().unwrap_or(Path::new("")))?,
        boot_id: &c_path(Path::new(&site.boot.id))?,
        incarnation: launch.instance.incarnation,
        max_log_size: spec.logs.max_size_bytes,
        max_log_files: u64::from(spec.logs.max_files),
        program: prepared.program(),
    }
    .encode();
    if request.len() > MAX_REQUEST {
        return Err(Refusal::TooLong { max: MAX_REQUEST });
    }
    let context = Arc::new(context);
    if has_exec_probe(&spec.probes) {
        site.keep_context(&launch.instance, context.clone());
    }
    Ok(Prepared { request, context })
}

/// The context of the instance that `launch` started: as it was told then, or else found out anew.
pub(super) fn context(site: &Site, launch: &Launch) -> Result<Arc<Context>, Refusal> {
    let account = context::account_of(&launch.spec)?;
    let file = site.file_of(&launch.instance);
    let has_secrets = !launch.spec.secrets.is_empty();
    let secrets = has_secrets.then(|| site.secrets.of(&launch.instance));
    let marks = Marks {
        file: &file,
        secrets: secrets.as_deref(),
    };
    let glance = Glance::at_env_files(&launch.spec);
    let from_files = glance.complete().map_err(Refusal::Input)?;
    let context = Context::of(site, launch, account, &marks, &from_files)?;
    let context = Arc::new(context);
    site.keep_context(&launch.instance, context.clone());
    Ok(context)
}

fn has_exec_probe(probes: &Probes) -> bool {
    let is_exec = |probe: &Probe| matches!(probe.check, ProbeCheck::Exec { .. });
    let all = [&probes.startup, &probes.readiness, &probes.liveness];
    all.into_iter().flatten().any(is_exec)
}

fn make_file(site: &Site, launch: &Launch, file: &Path) -> Result<(), Refusal> {
    Description {
        schema: Schema::V1,
        instance: launch.instance.clone(),
        boot_id: site.boot.id.clone(),
        generation: launch.generation,
        file: launch.file.clone(),
        injected: launch.injected.keys().cloned().collect(),
        spec: launch.spec.clone(),
    }
    .write(file)
    .map_err(|error| Refusal::StateDir {
        path: file.to_owned(),
        error,
    })
}

/// Which instance's file a name in the instances directory is; `None` = not one of ours.
pub(super) fn instance_of(name: &OsStr) -> Option<InstanceId> {
    name.to_str()?.parse().ok()
}
