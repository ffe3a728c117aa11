//! What a program of a component finds around it: said once, for the program itself and for all
//! that is run beside it in its name.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::driver::Launch;
use crate::model::{ComponentSpec, ProcessSpec, Workload};

use super::Site;
use super::account::Account;
use super::environment::{self, FromFiles, Marks};
use super::failure::Refusal;
use super::weigh::{Item, Overweight, Scales, is_path_length};
use super::wire::{Credentials, Limits, NewPrivileges, Program, StringList};

/// Open files of a program that asks for no other number: what programs that use `select`, or close
/// all that they might have, are made for.
const OPEN_FILES: u64 = 1024;

/// User, variables, directory and limits of a component's programs.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Context {
    /// Whom they run as; `None` = the daemon's user.
    pub(super) account: Option<Account>,
    /// All variables.
    pub(super) variables: BTreeMap<String, Vec<u8>>,
    /// Where they start.
    pub(super) working_dir: PathBuf,
    limits: Limits,
    umask: u32,
    privileges: NewPrivileges,
}

impl Context {
    /// The context of the instance that `launch` starts, or has started.
    ///
    /// # Errors
    /// When its user is not there, or its limits are beyond this daemon's.
    pub(super) fn of(
        site: &Site,
        launch: &Launch,
        account: Option<Account>,
        marks: &Marks<'_>,
        from_files: &FromFiles,
    ) -> Result<Self, Refusal> {
        let spec = &launch.spec;
        let process = process_of(spec)?;
        let inheritance = &site.inheritance;
        Ok(Self {
            variables: environment::of_instance(
                launch,
                inheritance,
                account.as_ref(),
                marks,
                from_files,
            ),
            working_dir: working_dir(process, launch.instance.replica.replica),
            limits: limits(spec, site.open_files)?,
            umask: spec.umask.bits(),
            privileges: match spec.allow_new_privileges {
                true => NewPrivileges::Allowed,
                false => NewPrivileges::Denied,
            },
            account,
        })
    }

    /// The component's PATH.
    pub(super) fn search_path(&self) -> &[u8] {
        self.variables.get("PATH").map_or(&[], Vec::as_slice)
    }

    /// `argv` in the form in which a shim is told of it.
    ///
    /// # Errors
    /// What of it the kernel would not take.
    pub(super) fn prepare(&self, argv: &[String], join: &[PathBuf]) -> Result<Prepared, Refusal> {
        weigh(argv, &self.variables, &self.working_dir)?;
        let nul = |item| move |_| Refusal::Overweight(Overweight::Nul { item });
        let mut prepared = Prepared {
            limits: self.limits,
            umask: self.umask,
            privileges: self.privileges,
            account: self.account.clone(),
            groups: StringList::default(),
            working_dir: CString::new(self.working_dir.as_os_str().as_bytes())
                .map_err(nul(Item::WorkingDir))?,
            candidates: StringList::default(),
            argv: StringList::default(),
            envp: StringList::default(),
        };
        for file in join {
            prepared
                .groups
                .push(file.as_os_str().as_bytes())
                .map_err(nul(Item::WorkingDir))?;
        }
        let program = argv.first().map_or("", String::as_str);
        for candidate in candidates(program, self.search_path()) {
            prepared
                .candidates
                .push(candidate.into_os_string().into_encoded_bytes())
                .map_err(nul(Item::Program))?;
        }
        for (number, argument) in argv.iter().enumerate() {
            let list = &mut prepared.argv;
            list.push(argument.as_bytes())
                .map_err(nul(Item::Argument(number)))?;
        }
        for (name, value) in &self.variables {
            let pair = [name.as_bytes(), b"=", value.as_slice()].concat();
            let list = &mut prepared.envp;
            list.push(pair).map_err(nul(Item::Variable(name.clone())))?;
        }
        Ok(prepared)
    }
}

/// A program with its context, as a shim can be told of it.
pub(super) struct Prepared {
    limits: Limits,
    umask: u32,
    privileges: NewPrivileges,
    account: Option<Account>,
    groups: StringList,
    working_dir: CString,
    candidates: StringList,
    argv: StringList,
    envp: StringList,
}

impl Prepared {
    /// The form that is sent.
    pub(super) fn program(&self) -> Program<'_> {
        Program {
            limits: self.limits,
            umask: self.umask,
            privileges: self.privileges,
            credentials: self.account.as_ref().map(|who| Credentials {
                uid: who.uid,
                gid: who.gid,
                groups: &who.groups,
            }),
            groups: self.groups.as_strings(),
            working_dir: &self.working_dir,
            candidates: self.candidates.as_strings(),
            argv: self.argv.as_strings(),
            envp: self.envp.as_strings(),
        }
    }
}

/// Whether the kernel takes this.
///
/// # Errors
/// What is too much, or cannot be given to a program at all.
pub(super) fn weigh(
    argv: &[String],
    variables: &BTreeMap<String, Vec<u8>>,
    working_dir: &Path,
) -> Result<(), Refusal> {
    let variables = variables.iter();
    Scales::of_this_host()
        .weigh(
            argv.iter().map(String::as_bytes),
            variables.map(|(name, value)| (name.as_str(), value.as_slice())),
            working_dir.as_os_str().as_bytes(),
        )
        .map_err(Refusal::Overweight)
}

/// The process that a component is.
pub(super) fn process_of(spec: &ComponentSpec) -> Result<&ProcessSpec, Refusal> {
    match &spec.workload {
        Workload::Process(process) => Ok(process),
        Workload::Docker(_) | Workload::Nomad(_) | Workload::Kubernetes(_) => {
            Err(Refusal::WrongDriver(spec.id.to_string()))
        }
    }
}

/// The program and its arguments, as one replica gets them.
pub(super) fn argv(process: &ProcessSpec, replica: u32) -> Vec<String> {
    std::iter::once(&process.program)
        .chain(&process.args)
        .map(|word| ComponentSpec::for_replica(word, replica))
        .collect()
}

/// Where one replica runs.
pub(super) fn working_dir(process: &ProcessSpec, replica: u32) -> PathBuf {
    match process.working_dir.to_str() {
        Some(text) => ComponentSpec::for_replica(text, replica).into(),
        None => process.working_dir.clone(),
    }
}

/// Whom a component runs as; `None` = the daemon's user.
pub(super) fn account_of(spec: &ComponentSpec) -> Result<Option<Account>, Refusal> {
    let account = spec.user.as_deref().map(Account::of).transpose()?;
    Ok(account.flatten())
}

/// How many files this process, and what it starts, may open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OpenFiles {
    /// The hard limit that it has.
    hard: u64,
    /// The highest that it may set.
    most: u64,
}

impl OpenFiles {
    /// Those of this process.
    pub(super) fn of_this_process() -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let hard = limit.maximum.unwrap_or(u64::MAX);
        let highest = std::fs::read_to_string("/proc/sys/fs/nr_open");
        let highest = highest.ok().and_then(|text| text.trim().parse().ok());
        let is_root = rustix::process::geteuid().is_root();
        Self {
            hard,
            most: highest.filter(|_| is_root).unwrap_or(hard).max(hard),
        }
    }
}

/// The limits of a component's programs.
///
/// # Errors
/// When the manifest asks for more than this process can give.
pub(super) fn limits(spec: &ComponentSpec, open_files: OpenFiles) -> Result<Limits, Refusal> {
    let OpenFiles { hard, most } = open_files;
    let wanted = spec.rlimits.nofile;
    if let Some(wanted) = wanted.filter(|wanted| *wanted > most) {
        return Err(Refusal::OpenFiles { wanted, most });
    }
    Ok(Limits {
        nofile: match wanted {
            Some(limit) => (limit, limit),
            None => (OPEN_FILES.min(hard), hard),
        },
        // A core dump would hold the secrets.
        core: match spec.rlimits.core {
            None if !spec.secrets.is_empty() => Some(0),
            limit => limit,
        },
    })
}

/// Where `program` may lie: itself when it is a path, else one per entry of PATH. All are meant
/// from the working directory.
pub(super) fn candidates(program: &str, path: &[u8]) -> Vec<PathBuf> {
    if program.contains('/') {
        return vec![program.into()];
    }
    if program.is_empty() {
        return Vec::new();
    }
    path.split(|byte| *byte == b':')
        // An empty entry means the working directory, as for a shell.
        .map(|entry| if entry.is_empty() { b"." } else { entry })
        .map(|entry| Path::new(OsStr::from_bytes(entry)).join(program))
        .filter(|candidate| is_path_length(candidate.as_os_str().len()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_up_in_path_and_a_path_is_not() {
        let list = |program: &str, path: &str| -> Vec<String> {
            candidates(program, path.as_bytes())
                .iter()
                .map(|path| path.to_str().unwrap().to_owned())
                .collect()
        };
        assert_eq!(list("a", "/x::/y"), ["/x/a", "./a", "/y/a"]);
        assert_eq!(list("./a", "/x"), ["./a"]);
        assert!(list("", "/x").is_empty());
        let long = "l".repeat(5000);
        assert_eq!(list("a", &format!("/{long}:/y")), ["/y/a"]);
    }
}
