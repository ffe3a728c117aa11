//! Between the messages of both services and the one form in which registrations are kept. Pure.
//!
//! Whatever a message holds, there is an answer: numbers that name nothing count as "not said",
//! texts that are too long are refused by name.

use std::collections::BTreeMap;

use prost_types::Timestamp as WireTime;

use super::wire::{legacy, v1};
use crate::model::{
    About, Metric, Metrics, RegistrationRecord, ServiceHealth, ServiceId, ServiceKind, Timestamp,
};
use crate::reconciler::Introduction;

/// The largest registration, encoded. The largest of the field is below 1 KiB.
const MAX_REGISTRATION: usize = 8 * 1024;
/// Names of metrics are cut to this many bytes.
const MAX_METRIC_NAME: usize = 96;
/// Texts of metrics are cut to this many bytes.
const MAX_METRIC_TEXT: usize = 160;

/// Why a message was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadMessage {
    /// A sub-message is missing.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// The registration is too large to keep.
    #[error("the registration takes {size} bytes; at most {MAX_REGISTRATION} are kept")]
    TooLarge {
        /// Its size.
        size: usize,
    },
    /// The id cannot be used.
    #[error("`{field}` cannot be used: {why}")]
    BadId {
        /// In which field it was.
        field: &'static str,
        /// What is wrong with it.
        why: crate::model::BadServiceId,
    },
}

/// The id in `field`.
pub(super) fn id(field: &'static str, text: &str) -> Result<ServiceId, BadMessage> {
    text.parse().map_err(|why| BadMessage::BadId { field, why })
}

/// What a legacy client says when it registers. It may name itself in three places.
pub(super) fn introduction(info: legacy::ServiceInfo) -> Result<Introduction, BadMessage> {
    check_size(&info)?;
    let kind = kind_of_legacy(&info);
    let claimed = info
        .metadata
        .get("component_id")
        .cloned()
        .unwrap_or_default();
    let names = said([&info.component_id, &claimed, &info.service_id]);
    let wanted = [
        ("service_id", &info.service_id),
        ("component_id", &info.component_id),
    ]
    .into_iter()
    .chain([("metadata.component_id", &claimed)])
    .find(|(_, text)| !text.is_empty())
    .map(|(field, text)| id(field, text))
    .transpose()?;
    Ok(Introduction {
        wanted,
        about: About {
            component_id: names.first().cloned().unwrap_or_default(),
            kind,
            input_event_types: info.input_event_types,
            output_event_types: info.output_event_types,
            health_endpoint: info.health_endpoint,
            max_inflight: info.max_inflight,
            metadata: info.metadata,
            ..About::default()
        },
        names,
        ..Introduction::default()
    })
}

/// What a client of the SDK says when it registers.
pub(super) fn introduction_v1(request: v1::RegisterRequest) -> Result<Introduction, BadMessage> {
    check_size(&request)?;
    let info = request.component.ok_or(BadMessage::Missing("component"))?;
    let names = said([&request.component_id, &info.id]);
    let wanted = names
        .first()
        .map(|name| id("component.id", name))
        .transpose()?;
    Ok(Introduction {
        wanted,
        about: About {
            component_id: names.first().cloned().unwrap_or_default(),
            name: info.name,
            description: info.description,
            version: info.version,
            kind: kind_of_v1(info.r#type),
            input_event_types: info.input_event_types,
            output_event_types: info.output_event_types,
            endpoint: info.endpoint,
            metadata: info.metadata,
            ..About::default()
        },
        names,
        ..Introduction::default()
    })
}

fn check_size(message: &impl prost::Message) -> Result<(), BadMessage> {
    let size = message.encoded_len();
    if size > MAX_REGISTRATION {
        return Err(BadMessage::TooLarge { size });
    }
    Ok(())
}

/// The names that are not empty, each once.
fn said<const N: usize>(names: [&String; N]) -> Vec<String> {
    let mut said: Vec<String> = Vec::new();
    for name in names {
        if !name.is_empty() && !said.contains(name) {
            said.push(name.clone());
        }
    }
    said
}

/// One private copy of the proto calls 4 a consumer, the real one a pipeline.
fn kind_of_legacy(info: &legacy::ServiceInfo) -> ServiceKind {
    let reads = !info.input_event_types.is_empty() || info.metadata.contains_key("consumer_type");
    match legacy::ServiceType::try_from(info.service_type) {
        Ok(legacy::ServiceType::Source) => ServiceKind::Source,
        Ok(legacy::ServiceType::Processor) => ServiceKind::Processor,
        Ok(legacy::ServiceType::Sink) => ServiceKind::Sink,
        Ok(legacy::ServiceType::Pipeline) if reads => ServiceKind::Sink,
        Ok(legacy::ServiceType::Pipeline) => ServiceKind::Pipeline,
        Ok(legacy::ServiceType::Unspecified) | Err(_) => ServiceKind::Unspecified,
    }
}

fn legacy_kind(kind: ServiceKind) -> legacy::ServiceType {
    match kind {
        ServiceKind::Unspecified => legacy::ServiceType::Unspecified,
        ServiceKind::Source => legacy::ServiceType::Source,
        ServiceKind::Processor => legacy::ServiceType::Processor,
        ServiceKind::Sink => legacy::ServiceType::Sink,
        ServiceKind::Pipeline => legacy::ServiceType::Pipeline,
    }
}

/// What a component of the SDK says that it is.
pub(super) fn kind_of_v1(kind: i32) -> ServiceKind {
    match v1::ComponentType::try_from(kind) {
        Ok(v1::ComponentType::Source) => ServiceKind::Source,
        Ok(v1::ComponentType::Processor) => ServiceKind::Processor,
        Ok(v1::ComponentType::Consumer) => ServiceKind::Sink,
        Ok(v1::ComponentType::Unspecified) | Err(_) => ServiceKind::Unspecified,
    }
}

fn v1_kind(kind: ServiceKind) -> v1::ComponentType {
    match kind {
        ServiceKind::Source => v1::ComponentType::Source,
        ServiceKind::Processor => v1::ComponentType::Processor,
        ServiceKind::Sink => v1::ComponentType::Consumer,
        ServiceKind::Unspecified | ServiceKind::Pipeline => v1::ComponentType::Unspecified,
    }
}

/// What a heartbeat says of its sender's health; unknown means alive, and no more.
pub(super) fn health_of_v1(status: i32) -> Option<ServiceHealth> {
    match v1::HealthStatus::try_from(status) {
        Ok(v1::HealthStatus::Starting) => Some(ServiceHealth::Starting),
        Ok(v1::HealthStatus::Healthy) => Some(ServiceHealth::Healthy),
        Ok(v1::HealthStatus::Degraded) => Some(ServiceHealth::Degraded),
        Ok(v1::HealthStatus::Unhealthy) => Some(ServiceHealth::Unhealthy),
        Ok(v1::HealthStatus::Stopping) => Some(ServiceHealth::Stopping),
        Ok(v1::HealthStatus::Unknown) | Err(_) => None,
    }
}

fn v1_health(health: ServiceHealth) -> v1::HealthStatus {
    match health {
        ServiceHealth::Starting => v1::HealthStatus::Starting,
        ServiceHealth::Healthy => v1::HealthStatus::Healthy,
        ServiceHealth::Degraded => v1::HealthStatus::Degraded,
        ServiceHealth::Unhealthy => v1::HealthStatus::Unhealthy,
        ServiceHealth::Stopping => v1::HealthStatus::Stopping,
        ServiceHealth::Unknown => v1::HealthStatus::Unknown,
    }
}

/// Figures of a legacy heartbeat.
pub(super) fn metrics_of_legacy(metrics: BTreeMap<String, f64>) -> Metrics {
    let kept = metrics.into_iter();
    kept.map(|(name, value)| (cut(name, MAX_METRIC_NAME), Metric::number(value)))
        .collect()
}

/// Figures of a heartbeat of the SDK.
pub(super) fn metrics_of_v1(metrics: BTreeMap<String, String>) -> Metrics {
    let kept = metrics.into_iter();
    kept.map(|(name, value)| {
        (
            cut(name, MAX_METRIC_NAME),
            Metric::text(cut(value, MAX_METRIC_TEXT)),
        )
    })
    .collect()
}

fn cut(mut text: String, bytes: usize) -> String {
    let mut ends = (0..=bytes.min(text.len())).rev();
    let end = ends.find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or_default());
    text
}

/// A registration as legacy clients see it.
pub(super) fn legacy_status(record: &RegistrationRecord) -> legacy::ServiceStatus {
    legacy::ServiceStatus {
        service_id: record.service_id.to_string(),
        service_type: legacy_kind(record.about.kind).into(),
        is_healthy: record.is_healthy(),
        last_heartbeat: record.last_heartbeat.map(wire_time),
        metrics: record
            .metrics
            .iter()
            .filter_map(|(name, value)| Some((name.clone(), value.as_number()?)))
            .collect(),
        component_id: record.component().to_owned(),
    }
}

/// What a component says of itself, as clients of the SDK see it.
pub(super) fn component_info(record: &RegistrationRecord) -> v1::ComponentInfo {
    let about = &record.about;
    let id = record.component();
    v1::ComponentInfo {
        id: if id.is_empty() {
            record.service_id.to_string()
        } else {
            id.to_owned()
        },
        name: about.name.clone(),
        description: about.description.clone(),
        version: about.version.clone(),
        r#type: v1_kind(about.kind).into(),
        input_event_types: about.input_event_types.clone(),
        output_event_types: about.output_event_types.clone(),
        endpoint: about.endpoint.clone(),
        metadata: about.metadata.clone(),
    }
}

/// A registration as clients of the SDK see it.
pub(super) fn component_status(record: &RegistrationRecord) -> v1::ComponentStatusResponse {
    v1::ComponentStatusResponse {
        component: Some(component_info(record)),
        status: v1_health(record.health()).into(),
        last_heartbeat: record.last_heartbeat.map(wire_time),
        metrics: record
            .metrics
            .iter()
            .map(|(name, value)| (name.clone(), value.to_string()))
            .collect(),
        registered_at: Some(wire_time(record.registered_at)),
    }
}

/// The topics of what it writes: only sources and processors write.
pub(super) fn topics(about: &About) -> Vec<String> {
    match about.kind {
        ServiceKind::Source | ServiceKind::Processor => about
            .output_event_types
            .iter()
            .map(|kind| format!("{kind}.v1"))
            .collect(),
        ServiceKind::Unspecified | ServiceKind::Sink | ServiceKind::Pipeline => Vec::new(),
    }
}

/// A point in time as messages carry it.
pub(super) fn wire_time(at: Timestamp) -> WireTime {
    let millis = at.as_millis();
    let nanos = i32::try_from(millis.rem_euclid(1000) * 1_000_000);
    WireTime {
        seconds: millis.div_euclid(1000),
        nanos: nanos.unwrap_or_default(),
    }
}

/// A point in time that a message carried.
pub(super) fn time_of(at: WireTime) -> Timestamp {
    let millis = at
        .seconds
        .saturating_mul(1000)
        .saturating_add(i64::from(at.nanos) / 1_000_000);
    Timestamp::from_millis(millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_component_is_an_error_and_no_crash() {
        let request = v1::RegisterRequest {
            component: None,
            component_id: "a".to_owned(),
        };
        let refused = introduction_v1(request).unwrap_err();
        assert_eq!(refused.to_string(), "`component` is missing");
    }

    #[test]
    fn four_is_a_sink_when_it_reads_something() {
        let mut info = legacy::ServiceInfo {
            service_type: 4,
            ..Default::default()
        };
        assert_eq!(kind_of_legacy(&info), ServiceKind::Pipeline);
        info.metadata
            .insert("consumer_type".to_owned(), "node".to_owned());
        assert_eq!(kind_of_legacy(&info), ServiceKind::Sink);
        info.service_type = 77;
        assert_eq!(kind_of_legacy(&info), ServiceKind::Unspecified);
    }

    #[test]
    fn a_legacy_client_names_itself_in_any_of_three_places() {
        let info = legacy::ServiceInfo {
            component_id: "a".to_owned(),
            metadata: [("component_id".to_owned(), "a".to_owned())].into(),
            service_id: "b".to_owned(),
            ..Default::default()
        };
        let intro = introduction(info).unwrap();
        assert_eq!(intro.names, ["a", "b"]);
        assert_eq!(
            intro.wanted.unwrap().as_str(),
            "b",
            "what it asks for by that name"
        );
        assert_eq!(
            introduction(legacy::ServiceInfo::default()).unwrap().wanted,
            None
        );
    }

    #[test]
    fn a_registration_that_would_fill_the_memory_is_refused() {
        let info = legacy::ServiceInfo {
            output_event_types: vec!["x".repeat(9000)],
            ..Default::default()
        };
        assert!(matches!(
            introduction(info),
            Err(BadMessage::TooLarge { .. })
        ));
    }

    #[test]
    fn long_texts_of_metrics_are_cut_at_a_character() {
        let metrics = metrics_of_v1([("ä".repeat(100), "ü".repeat(200))].into());
        let (name, value) = metrics.first_key_value().unwrap();
        assert_eq!((name.len(), value.to_string().len()), (96, 160));
    }

    #[test]
    fn times_go_over_the_wire_to_the_millisecond() {
        let at = wire_time(Timestamp::from_millis(1_795_228_980_123));
        assert_eq!((at.seconds, at.nanos), (1_795_228_980, 123_000_000));
    }
}
