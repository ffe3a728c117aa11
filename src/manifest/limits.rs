//! `resources`, `rlimits` and `logs`: how much a component may use.

use crate::model::{DriverKind, LogLimits, Resources, Rlimits};

use super::fields::{Field, Fields};
use super::problem::{Findings, Span, shown};
use super::quantity::{self, QuantityError};
use super::tree::Value;

/// Below this no program starts: an amount under it is a missing unit.
const LEAST_MEMORY: u64 = 1 << 20;

/// A file smaller than one line would be rotated with each.
const LEAST_LOG: u64 = 1 << 10;

/// Reads `resources`. Flat numbers, in MHz and MB, are Nomad's form.
pub(super) fn resources(
    fields: &mut Fields<'_>,
    driver: DriverKind,
    findings: &mut Findings<'_>,
) -> Resources {
    let Some(mut fields) = fields
        .get("resources")
        .and_then(|f| f.fields("`resources`", findings))
    else {
        return Resources::default();
    };
    let at = fields.at;
    let limits = fields
        .get("limits")
        .map(|f| Amounts::read(f, Pids::Allowed, findings))
        .unwrap_or_default();
    let requests = fields
        .get("requests")
        .map(|f| Amounts::read(f, Pids::Refused, findings))
        .unwrap_or_default();
    let mut resources = Resources {
        cpu_limit_millis: limits.cpu,
        memory_limit_bytes: limits.memory,
        pids_limit: limits.pids,
        cpu_request_millis: requests.cpu,
        memory_request_bytes: requests.memory,
        cpu_mhz: None,
    };
    if driver == DriverKind::Nomad {
        let cpu = fields
            .get("cpu")
            .and_then(|f| f.integer(findings, 1..=10_000_000));
        let memory = fields
            .get("memory")
            .and_then(|f| f.integer(findings, 1..=1 << 30));
        resources.cpu_mhz = cpu;
        resources.memory_limit_bytes = resources.memory_limit_bytes.or(memory.map(|mb| mb << 20));
    } else {
        let fix = "write it under `limits` or `requests`, as in `limits: {memory: 64Mi}`";
        fields.refuse(findings, "cpu", fix);
        fields.refuse(findings, "memory", fix);
    }
    for (what, request, limit) in [
        (
            "cpu",
            resources.cpu_request_millis,
            resources.cpu_limit_millis,
        ),
        (
            "memory",
            resources.memory_request_bytes,
            resources.memory_limit_bytes,
        ),
    ] {
        if let (Some(request), Some(limit)) = (request, limit)
            && request > limit
        {
            findings.error(
                at,
                format!("the {what} request is larger than the {what} limit"),
                Some("make the limit the larger one".to_owned()),
            );
        }
    }
    fields.close(findings);
    resources
}

#[derive(Default)]
struct Amounts {
    cpu: Option<u64>,
    memory: Option<u64>,
    pids: Option<u64>,
}

/// Whether a number of processes may be written: one cannot request them.
enum Pids {
    Allowed,
    Refused,
}

impl Amounts {
    fn read(field: Field<'_>, pids: Pids, findings: &mut Findings<'_>) -> Self {
        let Some(mut fields) = field.fields("an amount of resources", findings) else {
            return Self::default();
        };
        let amounts = Self {
            cpu: fields
                .get("cpu")
                .and_then(|f| amount(f, quantity::cpu_millis, findings)),
            memory: fields
                .get("memory")
                .and_then(|f| amount(f, |text| quantity::bytes(text, LEAST_MEMORY), findings)),
            pids: match pids {
                Pids::Allowed => fields
                    .get("pids")
                    .and_then(|f| f.integer(findings, 1..=4_194_304)),
                Pids::Refused => None,
            },
        };
        fields.close(findings);
        amounts
    }
}

/// A quantity in the form that `read` takes.
pub(super) fn amount(
    field: Field<'_>,
    read: impl Fn(&str) -> Result<u64, QuantityError>,
    findings: &mut Findings<'_>,
) -> Option<u64> {
    let Value::Scalar(scalar) = &field.node.value else {
        field.mismatch(findings, "a quantity", None);
        return None;
    };
    match read(scalar.text.trim()) {
        Ok(amount) => Some(amount),
        Err(QuantityError { message, fix }) => {
            findings.error(
                field.node.at,
                format!("`{}`: `{}` {message}", field.name, shown(&scalar.text)),
                fix,
            );
            None
        }
    }
}

/// Reads `rlimits`, which only processes have.
pub(super) fn rlimits(
    fields: &mut Fields<'_>,
    driver: DriverKind,
    findings: &mut Findings<'_>,
) -> Rlimits {
    let Some(field) = fields.get("rlimits") else {
        return Rlimits::default();
    };
    let Some(mut fields) = field.fields("`rlimits`", findings) else {
        return Rlimits::default();
    };
    let rlimits = Rlimits {
        nofile: fields
            .get("nofile")
            .and_then(|f| f.integer(findings, 3..=1 << 30)),
        core: fields
            .get("core")
            .and_then(|f| amount(f, |text| quantity::bytes(text, 0), findings)),
    };
    fields.close(findings);
    match driver {
        DriverKind::Process => rlimits,
        DriverKind::Docker | DriverKind::Nomad | DriverKind::Kubernetes => {
            no_effect(field.key_at, "rlimits", driver, findings);
            Rlimits::default()
        }
    }
}

/// Warns of a field that the component's driver has no use for.
pub(super) fn no_effect(at: Span, name: &str, driver: DriverKind, findings: &mut Findings<'_>) {
    findings.warn(
        at,
        format!("`{name}` has no effect on a component that the {driver} driver runs"),
        None,
    );
}

/// Reads `logs`.
pub(super) fn logs(fields: &mut Fields<'_>, findings: &mut Findings<'_>) -> LogLimits {
    let own = LogLimits::default();
    let Some(mut fields) = fields
        .get("logs")
        .and_then(|f| f.fields("`logs`", findings))
    else {
        return own;
    };
    let max_size = fields
        .get_cased(findings, "max_size")
        .and_then(|f| amount(f, |text| quantity::bytes(text, LEAST_LOG), findings));
    let max_files = fields
        .get_cased(findings, "max_files")
        .and_then(|f| f.small(findings, 1..=1_000));
    fields.close(findings);
    LogLimits {
        max_size_bytes: max_size.unwrap_or(own.max_size_bytes),
        max_files: max_files.unwrap_or(own.max_files),
    }
}
