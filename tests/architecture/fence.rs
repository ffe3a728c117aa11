//! The fence around the drivers: what one of them is called is said in its own folder, and none of
//! them knows another. The lists name who breaks that still; they may only shrink.

use std::collections::BTreeSet;
use std::path::Path;

use crate::code::{Code, is_word};

/// Enumerations with a variant for each driver.
const KINDS: [&str; 2] = ["DriverKind", "Workload"];
/// What those variants are called.
const DRIVERS: [&str; 4] = ["Process", "Docker", "Nomad", "Kubernetes"];
/// Where drivers may be named: they themselves, and where their variants are defined.
const INSIDE: [&str; 3] = ["driver", "manifest/drivers", "model/spec/workload.rs"];

/// Files outside that name a driver, with how often. To be emptied, file by file.
pub const NAMERS: [(&str, usize); 29] = [
    ("cli/describe.rs", 9),
    ("cli/validate.rs", 1),
    ("daemon/alone.rs", 3),
    ("daemon/answers.rs", 4),
    ("daemon/backend.rs", 3),
    ("daemon/control.rs", 4),
    ("daemon/engine.rs", 5),
    ("daemon/images.rs", 5),
    ("daemon/leftovers.rs", 1),
    ("daemon/losses.rs", 4),
    ("daemon/metering.rs", 2),
    ("daemon/mod.rs", 5),
    ("daemon/otel.rs", 4),
    ("daemon/probing.rs", 4),
    ("daemon/service_manager.rs", 1),
    ("daemon/sources.rs", 1),
    ("daemon/tokens.rs", 5),
    ("manifest/attachments.rs", 1),
    ("manifest/combinations.rs", 13),
    ("manifest/component.rs", 2),
    ("manifest/exposure.rs", 4),
    ("manifest/graph.rs", 6),
    ("manifest/limits.rs", 5),
    ("manifest/workload.rs", 27),
    ("model/claim.rs", 8),
    ("model/revision.rs", 4),
    ("model/spec/component.rs", 4),
    ("preflight/ports.rs", 5),
    ("preflight/wanted.rs", 1),
];

/// Files of a driver that import another: (who, whom).
pub const NEIGHBOURS: [(&str, &str); 2] = [
    ("driver/docker/mod.rs", "process"),
    ("driver/docker/secrets.rs", "process"),
];

/// The drivers that `code`, the file `inner` under `src`, names although it should know none: each
/// with where.
pub fn named(inner: &Path, code: &Code) -> Vec<(usize, String)> {
    if INSIDE.iter().any(|inside| inner.starts_with(inside)) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for kind in KINDS {
        let prefix = format!("{kind}::");
        for (offset, _) in code.text.match_indices(&prefix) {
            let variant: String = code.text[offset + prefix.len()..]
                .chars()
                .take_while(|c| is_word(*c))
                .collect();
            let is_shipped = !code.within(&code.tests, offset);
            if is_shipped && DRIVERS.contains(&variant.as_str()) {
                found.push((offset, format!("{kind}::{variant}")));
            }
        }
    }
    found.sort();
    found
}

/// The other drivers that the file `inner` of a driver imports.
pub fn neighbours(inner: &Path, code: &Code) -> BTreeSet<String> {
    let mut parts = inner.iter().filter_map(|part| part.to_str());
    let (Some("driver"), Some(own)) = (parts.next(), parts.next()) else {
        return BTreeSet::new();
    };
    let of_drivers = DRIVERS.map(str::to_lowercase);
    if !of_drivers.contains(&own.to_owned()) {
        return BTreeSet::new();
    }
    code.text
        .match_indices("crate::driver::")
        .filter(|(offset, _)| !code.within(&code.tests, *offset))
        .map(|(offset, prefix)| {
            let rest = code.text[offset + prefix.len()..].chars();
            rest.take_while(|c| is_word(*c)).collect::<String>()
        })
        .filter(|target| target != own && of_drivers.contains(target))
        .collect()
}
