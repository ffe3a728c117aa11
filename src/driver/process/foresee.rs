//! What a start would refuse, as far as it can be known without starting.
//!
//! The functions are those of a start, so what `apply` says is what `why` would have said later.

use std::collections::BTreeMap;
use std::path::Path;

use crate::driver::inputs::{Glance, InputError, check_secret};
use crate::driver::variables::NotText;
use crate::model::{ComponentSpec, ProcessSpec, SecretSource, StartFailure, Workload};

use super::account::{self, Account};
use super::context::{self, Context, OpenFiles};
use super::environment::{self, FromFiles, Inheritance};
use super::failure::Refusal;
use super::program;

/// Whether a program can be executed as its context has it: its directory, then its file.
///
/// # Errors
/// Which file is wrong, and how.
pub(super) fn can_run(argv: &[String], context: &Context) -> Result<(), Refusal> {
    let (path, dir) = (context.search_path(), &context.working_dir);
    runs(context.account.as_ref(), argv, path, dir)
}

fn runs(
    account: Option<&Account>,
    argv: &[String],
    path: &[u8],
    working_dir: &Path,
) -> Result<(), Refusal> {
    let question = || {
        can_be_entered(working_dir)?;
        program::check(argv, path, working_dir).map_err(Refusal::Unfit)
    };
    // Where another user's rights cannot be taken on, the kernel answers when it is started.
    Account::ask(account, question).unwrap_or(Ok(()))
}

/// Whether whoever asks can enter a directory.
fn can_be_entered(dir: &Path) -> Result<(), Refusal> {
    use rustix::fs::{Access, AtFlags, CWD, accessat};
    let unusable = |error| Refusal::WorkingDir {
        path: dir.to_owned(),
        error,
    };
    match std::fs::metadata(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Refusal::WorkingDirMissing(dir.to_owned()))
        }
        Err(error) => Err(unusable(error)),
        Ok(it) if !it.is_dir() => Err(unusable(std::io::ErrorKind::NotADirectory.into())),
        Ok(_) => accessat(CWD, dir, Access::EXEC_OK, AtFlags::empty())
            .map_err(|error| unusable(error.into())),
    }
}

/// Everything that a start of `spec` here would refuse. Reads files and the host's users, and
/// waits for nothing else.
pub fn foresee(spec: &ComponentSpec, inheritance: &Inheritance) -> Vec<StartFailure> {
    let glance = Glance::at_env_files(spec);
    let mut refusals: Vec<Refusal> = glance.errors.into_iter().map(Refusal::Input).collect();
    for secret in &spec.secrets {
        refusals.extend(check_secret(secret).err().map(Refusal::Input));
    }
    let from_files = &glance.variables[..];
    match &spec.workload {
        Workload::Process(process) => {
            of_process(spec, process, inheritance, from_files, &mut refusals)
        }
        // What is inside of an image is the engine's to know; what it is given is not.
        Workload::Docker(_) | Workload::Nomad(_) | Workload::Kubernetes(_) => {
            let variables = environment::for_container(spec, inheritance, from_files);
            refusals.extend(context::weigh(&[], &variables, Path::new("/")).err());
            refusals.extend(not_text(&variables));
        }
    }
    let mut failures: Vec<StartFailure> = Vec::new();
    for failure in refusals.into_iter().map(StartFailure::from) {
        if !failures.contains(&failure) {
            failures.push(failure);
        }
    }
    failures
}

/// Which files of `spec` are there and must not be given to whoever wrote it, in words. What is not
/// there is no matter: a manifest may be checked on another host than its own.
pub fn refused_files(spec: &ComponentSpec) -> Vec<String> {
    let of_variables = Glance::at_env_files(spec).errors;
    let secrets = spec.secrets.iter();
    let of_secrets = secrets.filter_map(|secret| check_secret(secret).err());
    let refused = of_variables.into_iter().chain(of_secrets);
    refused
        .filter(InputError::is_refused)
        .map(|error| error.to_string())
        .collect()
}

/// The first variable that is no text, which is all that an engine takes.
fn not_text(variables: &BTreeMap<String, Vec<u8>>) -> Option<Refusal> {
    let mut all = variables.iter();
    let (name, _) = all.find(|(_, value)| str::from_utf8(value).is_err())?;
    Some(Refusal::NotText(NotText(name.clone())))
}

fn of_process(
    spec: &ComponentSpec,
    process: &ProcessSpec,
    inheritance: &Inheritance,
    from_files: &FromFiles,
    refusals: &mut Vec<Refusal>,
) {
    refusals.extend(context::limits(spec, OpenFiles::of_this_process()).err());
    let account = match context::account_of(spec) {
        Ok(account) => account,
        // Nothing can be said about what it may execute.
        Err(refusal) => return refusals.push(refusal),
    };
    for replica in distinct_replicas(spec, process) {
        let injected = BTreeMap::new();
        let account = account.as_ref();
        let variables =
            environment::of_component(spec, replica, &injected, inheritance, account, from_files);
        let argv = context::argv(process, replica);
        let dir = context::working_dir(process, replica);
        let path = variables.get("PATH").map_or(&[][..], Vec::as_slice);
        let weighed = context::weigh(&argv, &variables, &dir);
        let judged = weighed.and_then(|()| runs(account, &argv, path, &dir));
        refusals.extend(judged.err());
    }
}

/// All replicas where something names the replica's number, else one of them.
fn distinct_replicas(spec: &ComponentSpec, process: &ProcessSpec) -> std::ops::Range<u32> {
    let names = |text: &str| text.contains(ComponentSpec::REPLICA_REFERENCE);
    let differ = names(&process.program)
        || process.args.iter().any(|argument| names(argument))
        || process.working_dir.to_str().is_some_and(names)
        || spec.env.values().any(|value| names(value));
    0..if differ {
        spec.replicas
    } else {
        spec.replicas.min(1)
    }
}

/// What will work otherwise than its author may expect, in words.
pub fn remarks(spec: &ComponentSpec, inheritance: &Inheritance) -> Vec<String> {
    let mut remarks: Vec<String> = spec
        .inherit_env
        .iter()
        .filter(|name| !name.ends_with('*') && inheritance.get(name).is_none())
        .map(|name| {
            format!(
                "`inherit_env` names {name}, which the daemon does not have, so the component gets \
                 none: set it where the daemon is started"
            )
        })
        .collect();
    for (path, literal) in Glance::at_env_files(spec).literals {
        remarks.push(format!(
            "env_file {}, line {}: the `$` in {} is kept as it is written, since nothing is expanded: \
             put it in single quotes if that is meant",
            path.display(),
            literal.line,
            literal.name
        ));
    }
    if let Workload::Process(process) = &spec.workload {
        remarks.extend(raised_rights(spec, process, inheritance));
    }
    remarks
}

/// Whether the program has rights of its own, which components do not get.
fn raised_rights(
    spec: &ComponentSpec,
    process: &ProcessSpec,
    inheritance: &Inheritance,
) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    const SET_UID: u32 = 0o4000;
    if spec.allow_new_privileges {
        return None;
    }
    let account = context::account_of(spec).ok()?;
    let account = account.as_ref();
    let injected = BTreeMap::new();
    let glance = Glance::at_env_files(spec);
    let variables =
        environment::of_component(spec, 0, &injected, inheritance, account, &glance.variables);
    let path = variables.get("PATH").map_or(&[][..], Vec::as_slice);
    let argv = context::argv(process, 0);
    let dir = context::working_dir(process, 0);
    let file = program::resolve(argv.first()?, path, &dir)?;
    let is_set_uid = std::fs::metadata(&file).is_ok_and(|it| it.mode() & SET_UID != 0);
    let mut value = [0u8; 64];
    let has_capabilities =
        rustix::fs::getxattr(&file, "security.capability", &mut value[..]).is_ok();
    let what = match () {
        () if is_set_uid && !account::owns(account, &file) => "set-uid bit",
        () if has_capabilities && !account::is_root(account) => "file capabilities",
        () => return None,
    };
    Some(format!(
        "the {what} of {} means nothing here: components get no new privileges unless they say \
         `allow_new_privileges: true`",
        file.display()
    ))
}

/// The variables of the daemon that `spec` wants by name, for whatever.
pub fn wanted_variables(spec: &ComponentSpec) -> Vec<&str> {
    let named = spec.inherit_env.iter().map(String::as_str);
    let secrets = spec
        .secrets
        .iter()
        .filter_map(|secret| match &secret.source {
            SecretSource::Env(variable) => Some(variable.as_str()),
            SecretSource::File(_) | SecretSource::Cluster(_) => None,
        });
    named
        .filter(|name| !name.ends_with('*'))
        .chain(secrets)
        .collect()
}
