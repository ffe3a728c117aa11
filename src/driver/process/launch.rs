//! From a launch to the request that a shim can carry out.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::driver::Launch;
use crate::model::{ComponentSpec, InstanceId, ProcessSpec, Workload};

use super::Site;
use super::failure::Refusal;
use super::record::{Description, Schema};
use super::sys::{self, UserKey};
use super::wire::{Credentials, Limits, MAX_REQUEST, Request, StringList};

/// Variables of the daemon that every process gets.
const INHERITED: [&str; 6] = ["PATH", "HOME", "USER", "LANG", "TZ", "TMPDIR"];
/// Where programs are looked up when the daemon itself has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The mark by which whatever an instance forked is found.
pub(super) const MARK: &str = "FLOWCTL_INSTANCE";
/// Tells instances of one name apart that belong to different state directories.
pub(super) const MARK_FILE: &str = "FLOWCTL_INSTANCE_FILE";
/// Where a component finds its secrets.
const SECRETS_DIR: &str = "FLOWCTL_SECRETS_DIR";

/// Whom a component runs as.
struct Account {
    uid: u32,
    gid: u32,
    groups: Vec<u8>,
    /// Name and home directory, where the host knows the user.
    login: Option<(String, String)>,
}

/// What a program that is run beside an instance finds around it: what the instance itself found.
#[derive(Clone, PartialEq, Eq)]
pub struct Surroundings {
    /// All variables.
    pub env: BTreeMap<String, OsString>,
    /// Where it starts.
    pub working_dir: PathBuf,
    /// User and group id; `None` = the daemon's.
    pub run_as: Option<(u32, u32)>,
}

/// The surroundings of the instance that `launch` started.
pub(super) fn surroundings(site: &Site, launch: &Launch) -> Result<Surroundings, Refusal> {
    let Workload::Process(process) = &launch.spec.workload else {
        return Err(Refusal::WrongDriver(launch.spec.id.to_string()));
    };
    let account = launch.spec.user.as_deref().map(account);
    let account = account.transpose()?.flatten();
    let file = site.file_of(&launch.instance);
    let has_secrets = !launch.spec.secrets.is_empty();
    let secrets = has_secrets.then(|| site.secrets.of(&launch.instance));
    let env = environment(launch, account.as_ref(), &file, secrets.as_deref())?;
    Ok(Surroundings {
        env: env
            .into_iter()
            .map(|(name, value)| (name, OsString::from_vec(value)))
            .collect(),
        working_dir: working_dir(process, launch.instance.replica.replica),
        run_as: account.map(|who| (who.uid, who.gid)),
    })
}

/// Makes the instance's file and the request for its shim. Only files are touched: what is left of a
/// failed try is removed with that one.
pub(super) fn prepare(site: &Site, launch: &Launch) -> Result<Vec<u8>, Refusal> {
    let Workload::Process(process) = &launch.spec.workload else {
        return Err(Refusal::WrongDriver(launch.spec.id.to_string()));
    };
    let spec = &launch.spec;
    let replica = launch.instance.replica.replica;
    let account = spec.user.as_deref().map(account).transpose()?.flatten();
    let file = site.file_of(&launch.instance);
    make_file(site, launch, &file)?;
    let owner = account.as_ref().map(|who| (who.uid, who.gid));
    let secrets = site.secrets.write(&launch.instance, spec, owner)?;

    let environment = environment(launch, account.as_ref(), &file, secrets.as_deref())?;
    let mut envp = StringList::default();
    for (name, value) in &environment {
        let pair = [name.as_bytes(), b"=", value.as_slice()].concat();
        envp.push(pair)
            .map_err(|_| Refusal::NulByte("an environment variable"))?;
    }
    let program = ComponentSpec::for_replica(&process.program, replica);
    let mut argv = StringList::default();
    let arguments = process
        .args
        .iter()
        .map(|argument| ComponentSpec::for_replica(argument, replica));
    for argument in std::iter::once(program.clone()).chain(arguments) {
        argv.push(argument)
            .map_err(|_| Refusal::NulByte("an argument"))?;
    }
    let path = environment.get("PATH").map_or(&[][..], Vec::as_slice);
    let candidates = candidates(&program, path)?;
    let c_path = |path: &Path| {
        CString::new(path.as_os_str().as_bytes()).map_err(|_| Refusal::NulByte("a path"))
    };
    let groups = site
        .groups
        .make(&launch.instance, &spec.resources)
        .map_err(|(path, error)| Refusal::Cgroup { path, error })?;
    let mut join = StringList::default();
    for file in &groups.join {
        join.push(file.as_os_str().as_bytes())
            .map_err(|_| Refusal::NulByte("a path"))?;
    }
    let request = Request {
        file: &c_path(&file)?,
        logs: &c_path(&site.logs_of(&launch.instance))?,
        oom: &c_path(groups.oom.as_deref().unwrap_or(Path::new("")))?,
        boot_id: &c_path(Path::new(&site.boot.id))?,
        incarnation: launch.instance.incarnation,
        max_log_size: spec.logs.max_size_bytes,
        max_log_files: u64::from(spec.logs.max_files),
        limits: Limits {
            nofile: match spec.rlimits.nofile {
                Some(limit) => (limit, limit),
                None => site.nofile,
            },
            // A core dump would hold the secrets.
            core: match spec.rlimits.core {
                None if !spec.secrets.is_empty() => Some(0),
                limit => limit,
            },
        },
        credentials: account.as_ref().map(|who| Credentials {
            uid: who.uid,
            gid: who.gid,
            groups: &who.groups,
        }),
        groups: join.as_strings(),
        working_dir: &c_path(&working_dir(process, replica))?,
        candidates: candidates.as_strings(),
        argv: argv.as_strings(),
        envp: envp.as_strings(),
    }
    .encode();
    if request.len() > MAX_REQUEST {
        return Err(Refusal::TooLong { max: MAX_REQUEST });
    }
    Ok(request)
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

fn working_dir(process: &ProcessSpec, replica: u32) -> PathBuf {
    match process.working_dir.to_str() {
        Some(text) => ComponentSpec::for_replica(text, replica).into(),
        None => process.working_dir.clone(),
    }
}

/// Where `program` may lie: itself when it is a path, else one per entry of PATH.
fn candidates(program: &str, path: &[u8]) -> Result<StringList, Refusal> {
    let mut list = StringList::default();
    let nul = |_| Refusal::NulByte("the program's name");
    if program.contains('/') {
        list.push(program).map_err(nul)?;
    } else if !program.is_empty() {
        for entry in path.split(|byte| *byte == b':') {
            // An empty entry means the working directory, as for a shell.
            let dir = if entry.is_empty() { b"." } else { entry };
            list.push([dir, b"/", program.as_bytes()].concat())
                .map_err(nul)?;
        }
    }
    Ok(list)
}

/// The variables of a new process; later sources win.
fn environment(
    launch: &Launch,
    account: Option<&Account>,
    file: &Path,
    secrets: Option<&Path>,
) -> Result<BTreeMap<String, Vec<u8>>, Refusal> {
    let spec = &launch.spec;
    let replica = launch.instance.replica.replica;
    let mut variables = BTreeMap::new();
    variables.insert("PATH".to_owned(), DEFAULT_PATH.into());
    for (name, value) in std::env::vars_os() {
        let Some(name) = name.to_str() else { continue };
        if INHERITED.contains(&name) || is_named(&spec.inherit_env, name) {
            variables.insert(name.to_owned(), value.as_bytes().to_vec());
        }
    }
    if let Some((name, home)) = account.and_then(|who| who.login.as_ref()) {
        variables.insert("USER".to_owned(), name.clone().into());
        variables.insert("HOME".to_owned(), home.clone().into());
    }
    for (name, value) in &launch.injected {
        variables.insert(name.clone(), value.clone().into());
    }
    for path in &spec.env_file {
        variables.extend(env_file(path)?);
    }
    for (name, value) in &spec.env {
        let value = ComponentSpec::for_replica(value, replica);
        variables.insert(name.clone(), value.into());
    }
    // The marks stand above all: without them what an instance forked could not be found.
    let own = [
        (MARK, Some(launch.instance.to_string().into())),
        (MARK_FILE, Some(file.as_os_str().to_owned())),
        (SECRETS_DIR, secrets.map(|dir| dir.as_os_str().to_owned())),
    ];
    for (name, value) in own {
        if let Some(value) = value {
            let value: &OsStr = &value;
            variables.insert(name.to_owned(), value.as_bytes().to_vec());
        }
    }
    Ok(variables)
}

/// The variables that `inherit_env` and `env_file` name; later sources win.
pub(super) fn given(spec: &ComponentSpec) -> Result<BTreeMap<String, Vec<u8>>, Refusal> {
    let mut variables = BTreeMap::new();
    for (name, value) in std::env::vars_os() {
        if let Some(name) = name.to_str()
            && is_named(&spec.inherit_env, name)
        {
            variables.insert(name.to_owned(), value.as_bytes().to_vec());
        }
    }
    for path in &spec.env_file {
        variables.extend(env_file(path)?);
    }
    Ok(variables)
}

/// Whether `name` is one of `patterns`, which may end in `*`.
fn is_named(patterns: &[String], name: &str) -> bool {
    patterns
        .iter()
        .any(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => pattern == name,
        })
}

/// The variables of a file of `NAME=value` lines; `#` starts a comment, `export` and quotes around
/// a value are dropped, nothing is expanded.
fn env_file(path: &Path) -> Result<Vec<(String, Vec<u8>)>, Refusal> {
    let text = std::fs::read_to_string(path).map_err(|error| Refusal::EnvFile {
        path: path.to_owned(),
        error,
    })?;
    let mut variables = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let (name, value) = line
            .split_once('=')
            .map(|(name, value)| (name.trim(), value.trim()))
            .filter(|(name, _)| !name.is_empty() && !name.contains(char::is_whitespace))
            .ok_or_else(|| Refusal::EnvFileLine {
                path: path.to_owned(),
                line: index + 1,
            })?;
        let value = ['"', '\'']
            .iter()
            .find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote))
            .unwrap_or(value);
        variables.push((name.to_owned(), value.into()));
    }
    Ok(variables)
}

/// Whom `user` means, as `user`, `user:group` or numbers; `None` = whom the daemon runs as anyway.
fn account(user: &str) -> Result<Option<Account>, Refusal> {
    let lookup = |error: io::Error| Refusal::UserLookup {
        user: user.to_owned(),
        error,
    };
    let (name, group) = match user.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (user, None),
    };
    let number = name.parse::<u32>().ok();
    let key = number.map_or(UserKey::Name(name), UserKey::Id);
    let known = sys::user(&key).map_err(lookup)?;
    let uid = known
        .as_ref()
        .map(|user| user.uid)
        .or(number)
        .ok_or_else(|| Refusal::NoSuchUser(name.to_owned()))?;
    let gid = match group {
        Some(group) => match group.parse() {
            Ok(gid) => gid,
            Err(_) => sys::group(group)
                .map_err(lookup)?
                .ok_or_else(|| Refusal::NoSuchGroup(group.to_owned()))?,
        },
        // A number that the host does not know has no primary group; its own number is free.
        None => known.as_ref().map_or(uid, |user| user.gid),
    };
    if !rustix::process::geteuid().is_root() {
        let same = uid == rustix::process::geteuid().as_raw()
            && gid == rustix::process::getegid().as_raw();
        return if same {
            Ok(None)
        } else {
            Err(Refusal::UserNotPermitted(user.to_owned()))
        };
    }
    let groups = match (&known, group) {
        (Some(user), None) => sys::groups_of(&user.name, gid).map_err(lookup)?,
        (Some(_) | None, _) => vec![gid],
    };
    Ok(Some(Account {
        uid,
        gid,
        groups: groups.iter().flat_map(|gid| gid.to_ne_bytes()).collect(),
        login: known.map(|user| (user.name, user.home)),
    }))
}

/// Which instance's file a name in the instances directory is; `None` = not one of ours.
pub(super) fn instance_of(name: &OsStr) -> Option<InstanceId> {
    name.to_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_name_variables_to_pass_on() {
        let patterns = ["AWS_*".to_owned(), "TOKEN".to_owned()];
        assert!(is_named(&patterns, "AWS_REGION"));
        assert!(is_named(&patterns, "TOKEN"));
        assert!(!is_named(&patterns, "TOKEN_2"));
    }

    #[test]
    fn an_env_file_is_read_line_by_line_and_a_bad_line_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("env");
        std::fs::write(&path, "# note\nA=1\nexport B=\"x y\"\nC='a=b'\n\nD=\n").unwrap();
        let read = env_file(&path).unwrap();
        let pairs: Vec<_> = read
            .iter()
            .map(|(name, value)| (name.as_str(), str::from_utf8(value).unwrap()))
            .collect();
        assert_eq!(pairs, [("A", "1"), ("B", "x y"), ("C", "a=b"), ("D", "")]);
        std::fs::write(&path, "A=1\nnonsense\n").unwrap();
        let message = env_file(&path).unwrap_err().to_string();
        assert!(message.contains("line 2"), "{message}");
    }

    #[test]
    fn a_name_is_looked_up_in_path_and_a_path_is_not() {
        let list = |program: &str, path: &str| -> Vec<String> {
            candidates(program, path.as_bytes())
                .unwrap()
                .as_strings()
                .iter()
                .map(|path| path.to_str().unwrap().to_owned())
                .collect()
        };
        assert_eq!(list("a", "/x::/y"), ["/x/a", "./a", "/y/a"]);
        assert_eq!(list("./a", "/x"), ["./a"]);
        assert!(list("", "/x").is_empty());
    }
}
