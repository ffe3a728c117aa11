//! Bytes as text: base64, after RFC 4648.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Padding is neither asked for nor refused.
const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const PLAIN: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const FOR_URLS: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

/// `bytes` in the standard alphabet, with padding.
pub fn to_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The bytes of a text in the standard alphabet or that for URLs, with or without padding; `None` = it is
/// none.
pub fn from_base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_ascii();
    PLAIN.decode(text).or_else(|_| FOR_URLS.decode(text)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_and_other_text_is_not() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(to_base64(bytes.as_bytes()), text);
            assert_eq!(from_base64(text).unwrap(), bytes.as_bytes());
            assert_eq!(
                from_base64(text.trim_end_matches('=')).unwrap(),
                bytes.as_bytes()
            );
        }
        assert_eq!(from_base64("_-8=").unwrap(), from_base64("/+8=").unwrap());
        for text in ["a b", "not base64!", "Z", "Zh=="] {
            assert_eq!(from_base64(text), None, "{text}");
        }
    }
}
