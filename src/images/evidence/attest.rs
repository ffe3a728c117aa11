//! What is attested about an image: how it was built, and what a scan found. Pure.

use std::time::Duration;

use serde_json::Value;

use super::Piece;
use super::dsse::Envelope;
use super::judge::Believed;
use crate::images::decide::signer;
use crate::images::refusal::Reason;
use crate::model::Timestamp;
use crate::model::image::{AttestationNeed, Digest, VulnerabilitySeverity};

const SLSA: &str = "https://slsa.dev/provenance/v1";
const SLSA_02: &str = "https://slsa.dev/provenance/v0.2";
const SCAN: &str = "https://cosign.sigstore.dev/attestation/vuln/v1";
/// So far may another host's clock be ahead of ours.
const AHEAD: Duration = Duration::from_secs(300);

/// What is attested, in words, and until when that counts.
pub(in crate::images) struct Attested {
    pub words: String,
    pub until: Option<Timestamp>,
}

/// Looks whether `need` is attested by what lies beside an image.
///
/// # Errors
/// Why not.
pub(in crate::images) fn attested(
    need: &AttestationNeed,
    pieces: &[Piece],
    digest: &Digest,
    believed: Believed<'_>,
) -> Result<Attested, (Reason, String)> {
    let (by, kinds): (_, &[&str]) = match need {
        AttestationNeed::Provenance { by, .. } => (by, &[SLSA, SLSA_02]),
        AttestationNeed::Vulnerabilities { by, .. } => (by, &[SCAN]),
    };
    let mut missing = (Reason::AttestationMissing, "none lies beside it".to_owned());
    let mut trusted = Vec::new();
    for piece in pieces {
        let (read, certified) = match piece {
            Piece::Bundle(bytes) => (Envelope::of_bundle(bytes), None),
            Piece::Envelope { bytes, certified } => (Envelope::alone(bytes), Some(certified)),
            Piece::Simple { .. } | Piece::Notation(_) | Piece::Unusable(_) => continue,
        };
        let Ok(envelope) = read else { continue };
        if !kinds.contains(&envelope.predicate_type.as_str()) || !envelope.is_about(digest) {
            continue;
        }
        let bundle = match (piece, certified) {
            (Piece::Bundle(bytes), _) => envelope.certified(bytes),
            (_, Some(certified)) => certified.bundle(),
            (_, None) => continue,
        };
        match believed.has_stated(by, bundle, &envelope, digest) {
            Ok(_) => trusted.push(envelope),
            Err(why) => missing.1 = format!("one is there, {why}"),
        }
    }
    // The latest scan counts, whatever earlier ones said.
    if let AttestationNeed::Vulnerabilities { .. } = need {
        trusted.sort_by_key(|envelope| scanned_at(&envelope.predicate));
        trusted.drain(..trusted.len().saturating_sub(1));
    }
    for envelope in &trusted {
        match judge(need, envelope, believed.now) {
            Err(found) => missing = found,
            Ok(found) => {
                let until = believed.until(std::slice::from_ref(by));
                return Ok(Attested {
                    words: format!("{}, attested by {}", found.words, signer(by)),
                    until: found.until.into_iter().chain(until).min(),
                });
            }
        }
    }
    Err(missing)
}

fn scanned_at(predicate: &Value) -> Option<Timestamp> {
    text(predicate, &["metadata", "scanFinishedOn"])?
        .parse()
        .ok()
}

fn judge(
    need: &AttestationNeed,
    envelope: &Envelope,
    now: Timestamp,
) -> Result<Attested, (Reason, String)> {
    let predicate = &envelope.predicate;
    let no = |why: String| (Reason::AttestationMissing, why);
    match need {
        AttestationNeed::Provenance {
            builder, source, ..
        } => {
            let (found_builder, found_source) = origin(&envelope.predicate_type, predicate);
            for (what, pattern, found) in [
                ("builder", builder, &found_builder),
                ("source", source, &found_source),
            ] {
                let Some(pattern) = pattern else { continue };
                let found = found
                    .as_deref()
                    .ok_or_else(|| no(format!("it names no {what}")))?;
                if !pattern.matches(found) {
                    return Err(no(format!("its {what} is {found}, {pattern} is wanted")));
                }
            }
            let built = found_builder.unwrap_or_else(|| "somebody".to_owned());
            Ok(Attested {
                words: format!("built by {built}"),
                until: None,
            })
        }
        AttestationNeed::Vulnerabilities {
            max_age,
            max_severity,
            ..
        } => {
            let at = scanned_at(predicate)
                .ok_or_else(|| no("it does not say when the scan was made".to_owned()))?;
            if at > now.after(AHEAD) {
                return Err(no(format!(
                    "its scan is of {at}, which is yet to come: one of the clocks is wrong"
                )));
            }
            let until = at.after(max_age.get());
            if until <= now {
                let age = crate::model::HumanDuration::new(now.since(at));
                return Err(no(format!(
                    "its latest scan is {age} old, of {at}; {max_age} is the limit"
                )));
            }
            if let Some(limit) = max_severity {
                let gravest = predicate
                    .get("scanner")
                    .and_then(|scanner| scanner.get("result"))
                    .and_then(gravest)
                    .ok_or_else(|| {
                        no(
                            "the format of its scan is not known; grype's and trivy's JSON are"
                                .to_owned(),
                        )
                    })?;
                if let Some((severity, name)) = gravest.filter(|(found, _)| found > limit) {
                    return Err((
                        Reason::Vulnerable,
                        format!("{name} is {severity}, {limit} is the limit (scan of {at})"),
                    ));
                }
            }
            Ok(Attested {
                words: format!("scanned on {at}"),
                until: Some(until),
            })
        }
    }
}

fn text<'v>(value: &'v Value, path: &[&str]) -> Option<&'v str> {
    let found = path.iter().try_fold(value, |value, name| value.get(name));
    found?.as_str()
}

/// Who built it, and from which repository.
fn origin(kind: &str, predicate: &Value) -> (Option<String>, Option<String>) {
    let (builder, source) = if kind == SLSA {
        let workflow = [
            "buildDefinition",
            "externalParameters",
            "workflow",
            "repository",
        ];
        let given = ["buildDefinition", "externalParameters", "source"];
        (
            text(predicate, &["runDetails", "builder", "id"]),
            text(predicate, &workflow).or(text(predicate, &given)),
        )
    } else {
        (
            text(predicate, &["builder", "id"]),
            text(predicate, &["invocation", "configSource", "uri"]),
        )
    };
    // `git+https://host/repository@ref`
    let repository = |uri: &str| {
        let uri = uri.strip_prefix("git+").unwrap_or(uri);
        uri.split('@').next().unwrap_or_default().to_owned()
    };
    (builder.map(ToOwned::to_owned), source.map(repository))
}

/// The gravest that a scan found, by name; `None` within = nothing at all. `None` = it is of a form
/// that is not known.
fn gravest(result: &Value) -> Option<Option<(VulnerabilitySeverity, String)>> {
    let mut worst: Option<(VulnerabilitySeverity, String)> = None;
    let mut note = |severity: &str, name: &str| {
        let severity = match severity.to_ascii_lowercase().as_str() {
            "negligible" => VulnerabilitySeverity::Negligible,
            "low" => VulnerabilitySeverity::Low,
            "medium" => VulnerabilitySeverity::Medium,
            "high" => VulnerabilitySeverity::High,
            // What nobody has judged could be anything.
            _ => VulnerabilitySeverity::Critical,
        };
        if worst.as_ref().is_none_or(|(known, _)| severity > *known) {
            worst = Some((severity, name.to_owned()));
        }
    };
    if let Some(matches) = result.get("matches").and_then(Value::as_array) {
        for found in matches {
            let severity = text(found, &["vulnerability", "severity"]);
            let name = text(found, &["vulnerability", "id"]);
            note(severity.unwrap_or_default(), name.unwrap_or("something"));
        }
        return Some(worst);
    }
    let results = result.get("Results").and_then(Value::as_array)?;
    for target in results {
        let Some(found) = target.get("Vulnerabilities").and_then(Value::as_array) else {
            continue;
        };
        for one in found {
            let (severity, name) = (text(one, &["Severity"]), text(one, &["VulnerabilityID"]));
            note(severity.unwrap_or_default(), name.unwrap_or("something"));
        }
    }
    Some(worst)
}

#[cfg(test)]
mod tests {
    use super::super::dsse::tests::{bundle, statement};
    use super::super::judge::tests::policy;
    use super::*;
    use crate::images::keys::tests::Pair;
    use crate::model::HumanDuration;
    use crate::model::image::{Signer, SubjectPattern};

    fn piece(pair: &Pair, kind: &str, byte: u8, predicate: &str) -> Piece {
        let digest = Digest::new([byte; 32]).to_string();
        Piece::Bundle(
            bundle(pair, &statement(kind, &digest, predicate))
                .into_bytes()
                .into(),
        )
    }

    fn scan(at: &str, severity: &str) -> String {
        format!(
            r#"{{"scanner":{{"result":{{"matches":[{{"vulnerability":{{"id":"CVE-1","severity":"{severity}"}}}}]}}}},"metadata":{{"scanFinishedOn":"{at}"}}}}"#
        )
    }

    fn by() -> Signer {
        Signer::Key("a".to_owned())
    }

    #[test]
    fn the_latest_scan_of_a_trusted_scanner_counts_for_as_long_as_it_may() {
        let (mine, theirs) = (Pair::p256(), Pair::p256());
        let policy = policy(&[&mine], "");
        let need = AttestationNeed::Vulnerabilities {
            by: by(),
            max_age: HumanDuration::from_secs(7 * 24 * 3_600),
            max_severity: Some(VulnerabilitySeverity::Medium),
        };
        let ask = |pieces: &[Piece]| {
            let now = "2026-11-30T00:00:00Z".parse().unwrap();
            let policy = &policy;
            let found = attested(
                &need,
                pieces,
                &Digest::new([1; 32]),
                Believed { policy, now },
            );
            found
                .map(|it| it.until.unwrap().to_string())
                .map_err(|(reason, why)| format!("{}: {why}", reason.word()))
        };
        let good = piece(&mine, SCAN, 1, &scan("2026-11-29T00:00:00Z", "Low"));
        let until = ask(std::slice::from_ref(&good)).unwrap();
        assert!(until.starts_with("2026-12-06T00:00:00"), "{until}");
        let newer_and_worse = piece(&mine, SCAN, 1, &scan("2026-11-29T12:00:00Z", "High"));
        let trivy = r#"{"scanner":{"result":{"Results":[{},{"Vulnerabilities":[{"VulnerabilityID":"CVE-2","Severity":"UNKNOWN"}]}]}},"metadata":{"scanFinishedOn":"2026-11-29T00:00:00Z"}}"#;
        for (pieces, wanted) in [
            (vec![], "none lies beside it"),
            (
                vec![piece(
                    &theirs,
                    SCAN,
                    1,
                    &scan("2026-11-29T00:00:00Z", "Low"),
                )],
                "not by key a",
            ),
            (
                vec![piece(&mine, SCAN, 2, &scan("2026-11-29T00:00:00Z", "Low"))],
                "none lies",
            ),
            (
                vec![piece(&mine, SLSA, 1, &scan("2026-11-29T00:00:00Z", "Low"))],
                "none lies",
            ),
            (
                vec![piece(&mine, SCAN, 1, &scan("2026-11-21T00:00:00Z", "Low"))],
                "9days old",
            ),
            (
                vec![piece(&mine, SCAN, 1, &scan("2026-12-01T00:00:00Z", "Low"))],
                "clocks",
            ),
            (
                vec![piece(&mine, SCAN, 1, &scan("yesterday", "Low"))],
                "does not say when",
            ),
            (
                vec![good, newer_and_worse],
                "ImageVulnerable: CVE-1 is high",
            ),
            (vec![piece(&mine, SCAN, 1, trivy)], "CVE-2 is critical"),
            (
                vec![piece(&mine, SCAN, 1, &trivy.replace("Results", "Other"))],
                "is not known",
            ),
        ] {
            let why = ask(&pieces).unwrap_err();
            assert!(why.contains(wanted), "{wanted}: {why}");
        }
    }

    #[test]
    fn builder_and_source_are_those_that_are_wanted() {
        let mine = Pair::p384();
        let policy = policy(&[&mine], "");
        let pattern = |text: &str| SubjectPattern::new(text);
        let need = AttestationNeed::Provenance {
            by: by(),
            builder: pattern("https://github.com/actions/runner/github-hosted"),
            source: pattern("https://github.com/acme/*"),
        };
        let ask = |kind: &str, predicate: &str| {
            let now = Timestamp::from_millis(0);
            let pieces = [piece(&mine, kind, 1, predicate)];
            let policy = &policy;
            let found = attested(
                &need,
                &pieces,
                &Digest::new([1; 32]),
                Believed { policy, now },
            );
            found.map(|it| it.words).map_err(|(_, why)| why)
        };
        let v1 = r#"{"buildDefinition":{"externalParameters":{"workflow":{"repository":"https://github.com/acme/app"}}},"runDetails":{"builder":{"id":"https://github.com/actions/runner/github-hosted"}}}"#;
        ask(SLSA, v1).unwrap();
        let old = r#"{"builder":{"id":"https://github.com/actions/runner/github-hosted"},"invocation":{"configSource":{"uri":"git+https://github.com/acme/app@refs/heads/main"}}}"#;
        ask(SLSA_02, old).unwrap();
        for (predicate, wanted) in [
            (v1.replace("acme/app", "acme-evil/app"), "its source is"),
            (v1.replace("github-hosted", "self-hosted"), "its builder is"),
            (v1.replace("repository", "ref"), "names no source"),
            ("null".to_owned(), "names no builder"),
        ] {
            let why = ask(SLSA, &predicate).unwrap_err();
            assert!(why.contains(wanted), "{wanted}: {why}");
        }
    }
}
