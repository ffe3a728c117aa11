//! Signatures after the Standard Webhooks scheme: HMAC-SHA256 over id, time and body.

use ring::hmac;

use crate::model::codec;

/// What a key in this form begins with; the rest is base64.
const PREFIX: &str = "whsec_";

/// The value of `webhook-signature`. `secret` is `whsec_BASE64`, or any text, which is the key as it
/// stands.
pub(super) fn signature(secret: &str, id: &str, seconds: i64, body: &[u8]) -> String {
    let decoded = secret.strip_prefix(PREFIX).and_then(codec::from_base64);
    let key = decoded.unwrap_or_else(|| secret.as_bytes().to_vec());
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
    let mut context = hmac::Context::with_key(&key);
    context.update(format!("{id}.{seconds}.").as_bytes());
    context.update(body);
    format!("v1,{}", codec::to_base64(context.sign().as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_that_of_the_scheme() {
        // The example of the specification of Standard Webhooks.
        let signed = signature(
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
