//! What a start needs of the user's files and of the daemon's variables: env files and secrets,
//! read before anything is made, by one reader for every driver and for the look ahead.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Hints, Launch};
use crate::files::{
    EnvFile, EnvProblem, LARGEST, Literal, Looked, Patience, ReadError, Wait, Wanted, look,
    parse_env, read,
};
use crate::model::{ComponentSpec, SecretSource, SecretSpec, StartFailure};
use crate::ownership::Trusted;

/// How long a start waits for one of its files. Somebody may unlock a vault by hand meanwhile; the
/// next try goes on waiting.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long a look ahead waits for one.
const GLANCE: Duration = Duration::from_secs(2);

/// The values that a start was given.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// The variables of all env files, in their order; the last of a name wins.
    pub variables: Vec<(String, Vec<u8>)>,
    /// The values of secrets, by name.
    pub secrets: BTreeMap<String, Vec<u8>>,
}

/// Why a start has not what it needs.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// An env file that could not be read at all.
    #[error("env_file {} {error}", path.display())]
    EnvFile {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        error: ReadError,
    },
    /// Lines of an env file that say nothing that can be understood.
    #[error("env_file {}, {}", path.display(), listed(problems))]
    EnvLines {
        /// Which.
        path: PathBuf,
        /// Where, and what is wrong there.
        problems: Vec<EnvProblem>,
    },
    /// The file of a secret.
    #[error("secret `{name}`: {} {error}", path.display())]
    SecretFile {
        /// Which secret.
        name: String,
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        error: ReadError,
    },
    /// The variable of a secret.
    #[error(
        "secret `{name}`: the daemon has no variable {variable}: set it and start the daemon again"
    )]
    SecretVariable {
        /// Which secret.
        name: String,
        /// The variable that it is read from.
        variable: String,
    },
    /// A pipe that was read by a start that this daemon did not make.
    #[error(
        "env_file {} is a named pipe, and what the start read there is not known any more",
        .0.display()
    )]
    Spent(PathBuf),
    /// A secret whose name is a path.
    #[error("secret `{0}`: a secret's name must be a plain file name")]
    SecretName(String),
}

fn listed(problems: &[EnvProblem]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.join("; ")
}

impl InputError {
    /// Whether a file is there and must not be given to whoever wrote the manifest.
    pub fn is_refused(&self) -> bool {
        match self {
            Self::EnvFile { error, .. } | Self::SecretFile { error, .. } => {
                matches!(error, ReadError::Refused(_))
            }
            Self::EnvLines { .. }
            | Self::SecretVariable { .. }
            | Self::Spent(_)
            | Self::SecretName(_) => false,
        }
    }

    /// One word for scripts. Part of the interface: only ever add.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::EnvFile {
                error: ReadError::GivenUp,
                ..
            }
            | Self::SecretFile {
                error: ReadError::GivenUp,
                ..
            } => StartFailure::GIVEN_UP,
            Self::EnvFile { .. } | Self::Spent(_) => "EnvFileUnreadable",
            Self::EnvLines { .. } => "EnvFileInvalid",
            Self::SecretFile { .. } | Self::SecretVariable { .. } => "SecretMissing",
            Self::SecretName(_) => "SecretNameInvalid",
        }
    }
}

impl From<InputError> for StartFailure {
    fn from(error: InputError) -> Self {
        Self {
            reason: error.reason().to_owned(),
            message: error.to_string(),
        }
    }
}

impl Inputs {
    /// Reads all that `launch` needs. It may take until somebody writes to a named pipe; `hints`
    /// hear what is waited for, and nothing but this start waits with it.
    ///
    /// # Errors
    /// What is missing, or that nobody wants the instance any more.
    pub async fn read(launch: &Launch, hints: &Hints) -> Result<Self, InputError> {
        let spec = &launch.spec;
        let given_up = &launch.given_up;
        let mut inputs = Self::default();
        for path in &spec.env_file {
            let tell = |wait: Wait| {
                let what = format!("waiting for env_file {}, which {wait}", path.display());
                hints.say(launch.instance.clone(), what);
            };
            let bytes = patiently(path, given_up, &tell).await;
            let text = bytes.map_err(|error| InputError::EnvFile {
                path: path.clone(),
                error,
            })?;
            inputs.variables.extend(parsed(path, &text)?.variables);
        }
        for secret in &spec.secrets {
            check_name(secret)?;
            let value = match &secret.source {
                SecretSource::Env(variable) => of_variable(secret, variable)?,
                SecretSource::File(path) => {
                    let tell = |wait: Wait| {
                        let (name, file) = (&secret.name, path.display());
                        let what = format!("waiting for secret `{name}`: {file} {wait}");
                        hints.say(launch.instance.clone(), what);
                    };
                    let value = patiently(path, given_up, &tell).await;
                    value.map_err(|error| of_file(secret, path, error))?
                }
                // The cluster hands it over itself.
                SecretSource::Cluster(_) => continue,
            };
            inputs.secrets.insert(secret.name.clone(), value);
        }
        Ok(inputs)
    }
}

/// A file that a manifest names. The daemon may read more than whoever could change its path.
fn wanted(path: &Path) -> Wanted<'_> {
    Wanted {
        path,
        limit: LARGEST,
        judge: |path, file| Trusted::ours().check_named(path, file),
    }
}

async fn patiently(
    path: &Path,
    given_up: &CancellationToken,
    tell: &(dyn Fn(Wait) + Send + Sync),
) -> Result<Vec<u8>, ReadError> {
    let patience = Patience {
        deadline: PATIENCE,
        given_up,
        tell,
    };
    read(wanted(path), &patience).await
}

fn parsed(path: &Path, text: &[u8]) -> Result<EnvFile, InputError> {
    parse_env(text).map_err(|problems| InputError::EnvLines {
        path: path.to_owned(),
        problems,
    })
}

/// What can be seen of the files of a component without waiting for them.
#[derive(Debug, Default)]
pub struct Glance {
    /// The variables of those env files that can be read now.
    pub variables: Vec<(String, Vec<u8>)>,
    /// Those that are pipes, which only a start reads.
    pub pipes: Vec<PathBuf>,
    /// What a start would fail for.
    pub errors: Vec<InputError>,
    /// Values that other tools would expand, by file.
    pub literals: Vec<(PathBuf, Literal)>,
}

impl Glance {
    /// Looks at the env files of `spec`.
    pub fn at_env_files(spec: &ComponentSpec) -> Self {
        let mut glance = Self::default();
        for path in &spec.env_file {
            let text = match look(wanted(path), GLANCE) {
                Ok(Looked::Whole(text)) => text,
                Ok(Looked::Pipe) => {
                    glance.pipes.push(path.clone());
                    continue;
                }
                Err(error) => {
                    let path = path.clone();
                    glance.errors.push(InputError::EnvFile { path, error });
                    continue;
                }
            };
            match parsed(path, &text) {
                Ok(file) => {
                    glance.variables.extend(file.variables);
                    let literals = file.literals.into_iter();
                    let of_file = literals.map(|literal| (path.clone(), literal));
                    glance.literals.extend(of_file);
                }
                Err(error) => glance.errors.push(error),
            }
        }
        glance
    }

    /// The variables of all env files, for what is run beside an instance that another daemon
    /// started.
    ///
    /// # Errors
    /// What of them is not known.
    pub fn complete(self) -> Result<Vec<(String, Vec<u8>)>, InputError> {
        let spent = self.pipes.into_iter().map(InputError::Spent);
        match self.errors.into_iter().chain(spent).next() {
            Some(error) => Err(error),
            None => Ok(self.variables),
        }
    }
}

/// Whether a start would have the value of `secret`, as far as can be seen without waiting for it.
///
/// # Errors
/// Those of a start.
pub fn check_secret(secret: &SecretSpec) -> Result<(), InputError> {
    check_name(secret)?;
    match &secret.source {
        SecretSource::Env(variable) => of_variable(secret, variable).map(drop),
        SecretSource::File(path) => match look(wanted(path), GLANCE) {
            Ok(Looked::Whole(_) | Looked::Pipe) => Ok(()),
            Err(error) => Err(of_file(secret, path, error)),
        },
        // It is its cluster's to tell.
        SecretSource::Cluster(_) => Ok(()),
    }
}

fn check_name(secret: &SecretSpec) -> Result<(), InputError> {
    let plain = Path::new(&secret.name).file_name() == Some(secret.name.as_ref());
    match plain && !secret.name.contains('\0') {
        true => Ok(()),
        false => Err(InputError::SecretName(secret.name.clone())),
    }
}

fn of_variable(secret: &SecretSpec, variable: &str) -> Result<Vec<u8>, InputError> {
    use std::os::unix::ffi::OsStringExt;
    let value = std::env::var_os(variable);
    let value = value.ok_or_else(|| InputError::SecretVariable {
        name: secret.name.clone(),
        variable: variable.to_owned(),
    })?;
    Ok(value.into_vec())
}

fn of_file(secret: &SecretSpec, path: &Path, error: ReadError) -> InputError {
    InputError::SecretFile {
        name: secret.name.clone(),
        path: path.to_owned(),
        error,
    }
}
