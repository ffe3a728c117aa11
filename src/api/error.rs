//! The one shape of every failure that crosses the socket.

use serde::{Deserialize, Serialize};

use crate::driver::DriverError;
use crate::model::Problem;
use crate::reconciler::Refusal;

/// What kind of failure; decides the HTTP status here and the exit code in the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// The request cannot be understood.
    BadRequest,
    /// A manifest has problems.
    ManifestInvalid,
    /// No such pipeline, component or address.
    NotFound,
    /// It conflicts with what is there.
    Refused,
    /// This peer may not ask for it.
    NotPermitted,
    /// It cannot be recorded.
    NotDurable,
    /// Too many are asking at once.
    Busy,
    /// The daemon is going.
    ShuttingDown,
    /// A driver does not answer.
    Unreachable,
    /// A defect of ours.
    Internal,
}

impl ErrorCode {
    /// The HTTP status that goes with it.
    pub fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::NotPermitted => 403,
            Self::NotFound => 404,
            Self::Refused => 409,
            Self::ManifestInvalid => 422,
            Self::Internal => 500,
            Self::Unreachable => 502,
            Self::Busy | Self::ShuttingDown => 503,
            Self::NotDurable => 507,
        }
    }
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// What kind of failure.
    pub code: ErrorCode,
    /// What failed, on what, why; a lower-case fragment, or for a manifest the rendered problems.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Where a manifest is wrong, one by one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
    /// What else is worth telling about a manifest that is wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Problem>,
}

impl ApiError {
    /// A failure of kind `code` in the words `message`.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            hint: None,
            problems: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// The same with an advice.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Manifests with problems: the rendered text for people, and each problem for programs.
    pub fn manifest(rendered: impl Into<String>, problems: Vec<Problem>) -> Self {
        Self {
            code: ErrorCode::ManifestInvalid,
            message: rendered.into(),
            hint: None,
            problems,
            warnings: Vec::new(),
        }
    }

    /// The same, with what else was noticed.
    #[must_use]
    pub fn with_warnings(mut self, warnings: Vec<Problem>) -> Self {
        self.warnings = warnings;
        self
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let code = match &refusal {
            Refusal::NoSuchPipeline(_) | Refusal::NoSuchComponent { .. } => ErrorCode::NotFound,
            Refusal::NotDurable { .. } => ErrorCode::NotDurable,
            Refusal::Deleting(_) => ErrorCode::Refused,
            Refusal::ShuttingDown => {
                return Self::new(ErrorCode::ShuttingDown, refusal.to_string())
                    .with_hint("repeat once it is gone; `flowctl apply` starts the next one");
            }
        };
        Self::new(code, refusal.to_string())
    }
}

impl From<DriverError> for ApiError {
    fn from(error: DriverError) -> Self {
        let code = match &error {
            DriverError::Refused(_)
            | DriverError::StillAlive { .. }
            | DriverError::InTheWay { .. } => ErrorCode::Refused,
            DriverError::Unreachable { .. } => ErrorCode::Unreachable,
        };
        Self::new(code, error.to_string())
    }
}

/// The body of every failed answer, and the last line of a stream that broke.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// Why.
    pub error: ApiError,
}
