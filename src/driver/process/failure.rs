//! Why a program could not be started, in words that say what to do.

use std::io;
use std::path::PathBuf;

use crate::driver::inputs::InputError;
use crate::driver::variables::NotText;
use crate::model::{ComponentSpec, StartFailure, Workload};

use super::program::{Fault, Unfit};
use super::weigh::Overweight;
use super::wire::Stage;

/// Why an instance never got to run its program.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("component {0} is no process: this driver cannot run it")]
    WrongDriver(String),
    #[error(
        "this process driver only looks: it was opened without a fork server, so it starts nothing"
    )]
    OnlyLooks,
    #[error(transparent)]
    Overweight(Overweight),
    #[error(
        "arguments and environment are larger than {max} bytes together: pass the data in a file"
    )]
    TooLong { max: usize },
    #[error("there is no user `{0}` on this host: create it or correct `user`")]
    NoSuchUser(String),
    #[error("there is no group `{0}` on this host: create it or correct `user`")]
    NoSuchGroup(String),
    #[error(
        "cannot become user `{0}`: only root may change the user, so run the daemon as root or \
         remove `user`"
    )]
    UserNotPermitted(String),
    #[error("cannot look up user `{user}`: {error}")]
    UserLookup { user: String, error: io::Error },
    #[error(transparent)]
    Input(InputError),
    #[error(transparent)]
    NotText(NotText),
    #[error("secret `{name}`: cannot write it to {}: {error}", path.display())]
    SecretWrite {
        name: String,
        path: PathBuf,
        error: io::Error,
    },
    #[error(
        "no memory file system (/run or /dev/shm) is writable, and user `{0}` cannot reach the \
         state directory: its secrets have no safe place"
    )]
    NoSecretsPlace(String),
    #[error("cannot write {}: {error}", path.display())]
    StateDir { path: PathBuf, error: io::Error },
    #[error(transparent)]
    Unfit(Unfit),
    #[error(
        "program `{program}` was not found: it, its interpreter or its loader does not exist; \
         install what is missing or correct `command`"
    )]
    ExecNotFound { program: String },
    #[error(
        "program `{program}` or its interpreter cannot be executed: it is not an executable file \
         of this user (chmod +x?), or lies on a file system mounted noexec"
    )]
    NotExecutable { program: String },
    #[error("program `{program}` is neither a binary of this machine nor a script with a #! line")]
    BadFormat { program: String },
    #[error("working directory {} does not exist: create it or correct `working_dir`", .0.display())]
    WorkingDirMissing(PathBuf),
    #[error("cannot enter working directory {}: {error}", path.display())]
    WorkingDir { path: PathBuf, error: io::Error },
    #[error(
        "`nofile: {wanted}` is more than this daemon may set, which is {most}: ask for less, or \
         raise the daemon's own hard limit"
    )]
    OpenFiles { wanted: u64, most: u64 },
    #[error("cannot set the limit on open files or core size: {0}")]
    Rlimit(io::Error),
    #[error("cannot set its limits: cannot write {}: {error}", path.display())]
    Cgroup { path: PathBuf, error: io::Error },
    #[error("cannot join the control group of its limits: {0}")]
    CgroupJoin(io::Error),
    #[error("cannot change to user `{user}`: {error}")]
    User { user: String, error: io::Error },
    #[error("cannot make a process: {0}; the host's limit on processes or memory is reached")]
    Process(io::Error),
    #[error("its guardian could not begin: {0}")]
    Guardian(io::Error),
    #[error("could not start `{program}`: {error}")]
    Exec { program: String, error: io::Error },
}

impl Refusal {
    /// One word for scripts. Part of the interface: only ever add.
    fn reason(&self) -> &'static str {
        match self {
            Self::WrongDriver(_) => "WrongDriver",
            Self::OnlyLooks => "ReadOnlyDriver",
            Self::Overweight(Overweight::Nul { .. }) => "NulByte",
            Self::Overweight(Overweight::Name { .. }) => "VariableNameInvalid",
            Self::Overweight(Overweight::TooLong { .. } | Overweight::TooMuch { .. })
            | Self::TooLong { .. } => "ArgumentsTooLong",
            Self::Unfit(unfit) => of_unfit(unfit),
            Self::NoSuchUser(_) => "NoSuchUser",
            Self::NoSuchGroup(_) => "NoSuchGroup",
            Self::UserNotPermitted(_) | Self::User { .. } => "UserNotPermitted",
            Self::UserLookup { .. } => "UserLookupFailed",
            Self::Input(error) => error.reason(),
            Self::NotText(_) => NotText::REASON,
            Self::SecretWrite { .. } | Self::NoSecretsPlace(_) => "SecretNotWritable",
            Self::StateDir { .. } => "StateDirNotWritable",
            Self::ExecNotFound { .. } => "ExecNotFound",
            Self::NotExecutable { .. } => "NotExecutable",
            Self::BadFormat { .. } => "ExecFormat",
            Self::WorkingDirMissing(_) => "WorkingDirMissing",
            Self::WorkingDir { .. } => "WorkingDirUnusable",
            Self::Cgroup { .. } | Self::CgroupJoin(_) => "LimitsNotSet",
            Self::OpenFiles { .. } | Self::Rlimit(_) => "LimitNotPermitted",
            Self::Process(_) => "ProcessLimit",
            Self::Guardian(_) => "GuardianFailed",
            Self::Exec { .. } => "ExecFailed",
        }
    }

    /// What a shim's failure means for this component.
    pub(super) fn of_stage(stage: Option<Stage>, errno: i32, spec: &ComponentSpec) -> Self {
        let error = io::Error::from_raw_os_error(errno);
        let Workload::Process(process) = &spec.workload else {
            return Self::WrongDriver(spec.id.to_string());
        };
        let program = process.program.clone();
        let user = || spec.user.clone().unwrap_or_default();
        let is = |kind| error.kind() == kind;
        match stage {
            Some(Stage::Exec) if is(io::ErrorKind::NotFound) => Self::ExecNotFound { program },
            Some(Stage::Exec) if is(io::ErrorKind::PermissionDenied) => {
                Self::NotExecutable { program }
            }
            Some(Stage::Exec) if errno == libc::ENOEXEC => Self::BadFormat { program },
            Some(Stage::WorkingDir) if is(io::ErrorKind::NotFound) => {
                Self::WorkingDirMissing(process.working_dir.clone())
            }
            Some(Stage::WorkingDir) => Self::WorkingDir {
                path: process.working_dir.clone(),
                error,
            },
            Some(Stage::Cgroup) => Self::CgroupJoin(error),
            Some(Stage::Limits) => Self::Rlimit(error),
            Some(Stage::Groups | Stage::Group | Stage::User) => Self::User {
                user: user(),
                error,
            },
            Some(Stage::Shim | Stage::Spawn) => Self::Process(error),
            Some(Stage::Claim) => Self::Guardian(error),
            Some(Stage::Session | Stage::Privileges | Stage::Descriptors | Stage::Exec) | None => {
                Self::Exec { program, error }
            }
        }
    }
}

/// The word for a program that cannot be executed.
fn of_unfit(unfit: &Unfit) -> &'static str {
    match unfit.fault() {
        Fault::NotInPath(_) | Fault::Missing(_) if unfit.is_about_an_interpreter() => {
            "InterpreterMissing"
        }
        Fault::NoLoader(_) | Fault::WindowsLine | Fault::EnvArguments(_) => "InterpreterMissing",
        Fault::NotInPath(_) | Fault::Missing(_) => "ExecNotFound",
        Fault::Directory(_) | Fault::NotExecutable(_) | Fault::Denied(_) | Fault::NoExec(_) => {
            "NotExecutable"
        }
        Fault::Shapeless(_) | Fault::Foreign(_) | Fault::BadLine | Fault::Chain => "ExecFormat",
    }
}

impl From<Refusal> for StartFailure {
    fn from(refusal: Refusal) -> Self {
        Self {
            reason: refusal.reason().to_owned(),
            message: refusal.to_string(),
        }
    }
}
