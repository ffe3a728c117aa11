//! Simple signing: a small JSON text that names an image, and a signature beside it.

use serde::Deserialize;

use crate::model::image::Digest;

/// What the text of a signature of an image says that it is.
const KIND: &str = "cosign container image signature";

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    #[serde(rename = "type")]
    kind: String,
    image: Image,
}

#[derive(Deserialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: Digest,
}

/// The image that a signed text names. A field that is there twice, and whatever stands behind the
/// text, make it none.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read(payload: &[u8]) -> Result<Digest, String> {
    let payload: Payload = serde_json::from_slice(payload)
        .map_err(|error| format!("what is signed is not well formed: {error}"))?;
    if payload.critical.kind != KIND {
        return Err("what is signed is not a signature of an image".to_owned());
    }
    Ok(payload.critical.image.digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_text_in_one_form_names_an_image() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        let other = format!("sha256:{}", "0b".repeat(32));
        let good = format!(
            r#"{{"critical":{{"identity":{{"docker-reference":"r.io/a"}},"image":{{"docker-manifest-digest":"{digest}"}},"type":"{KIND}"}},"optional":null}}"#
        );
        assert_eq!(read(good.as_bytes()).unwrap().to_string(), digest);
        for bad in [
            good.replace(KIND, "atomic container signature"),
            good.replace(
                r#""image":{"#,
                &format!(r#""image":{{"docker-manifest-digest":"{other}","#),
            ),
            good.replace(
                r#"{"critical""#,
                &format!(r#"{{"critical":{{"image":{{"docker-manifest-digest":"{other}"}},"type":"{KIND}"}},"critical""#),
            ),
            good.replace(&digest, &digest.to_uppercase()),
            good.replace(&digest, "sha512:00"),
            format!("{good}x"),
            format!("{good}{good}"),
            format!("\u{feff}{good}"),
            good.replace("null", "1e999999999999}"),
            "[".repeat(100_000),
            String::new(),
            "null".to_owned(),
        ] {
            let shown: String = bad.chars().take(80).collect();
            assert!(read(bad.as_bytes()).is_err(), "{shown}");
        }
    }
}
