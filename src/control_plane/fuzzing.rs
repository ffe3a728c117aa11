//! Any bytes as the messages that components send.

use prost::Message as _;

use super::convert;
use super::runs;
use super::wire::{legacy, v1};
use crate::model::Timestamp;

/// Any bytes as any request: it is decoded or refused, and what was decoded is converted or
/// refused; nothing crashes.
pub fn messages(bytes: &[u8]) {
    if let Ok(info) = legacy::ServiceInfo::decode(bytes)
        && let Ok(intro) = convert::introduction(info)
    {
        convert::topics(&intro.about);
    }
    if let Ok(request) = v1::RegisterRequest::decode(bytes) {
        convert::introduction_v1(request).ok();
    }
    if let Ok(beat) = legacy::ServiceHeartbeat::decode(bytes) {
        convert::id("service_id", &beat.service_id).ok();
        convert::metrics_of_legacy(beat.metrics);
    }
    if let Ok(beat) = v1::HeartbeatRequest::decode(bytes) {
        convert::health_of_v1(beat.status);
        convert::metrics_of_v1(beat.metrics);
    }
    if let Ok(update) = legacy::UpdatePipelineRunRequest::decode(bytes) {
        runs::change_of(update);
    }
    if let Ok(legacy::UpsertChunkRunRequest { chunk: Some(chunk) }) =
        legacy::UpsertChunkRunRequest::decode(bytes)
    {
        let kept = runs::chunk_of(chunk, Timestamp::default());
        serde_json::to_string(&runs::wire_chunk(&kept).chunk_id).expect("its keys are text");
    }
    v1::DiscoveryRequest::decode(bytes).ok();
    v1::WaitForComponentRequest::decode(bytes).ok();
}

#[cfg(test)]
#[test]
fn kept_and_changed_messages_are_taken_or_refused() {
    crate::fuzzing::replay("messages", messages);
}
