//! Tokens by which an instance proves that it is one: JSON web tokens, HMAC-SHA256.
//!
//! **Guarantees.** A token names one instance and ends after a day. The keys lie in one file of the
//! state directory, mode 0600, newest first; a rotation adds one and keeps the one before, so that
//! tokens signed with it stay good for the rest of their day. A daemon takes up keys that somebody
//! else rotated.

use std::fmt;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Once, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error as JwtError, ErrorKind};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use signature::{Signer, Verifier};

use crate::model::{BadServiceId, InstanceId, ServiceId, Timestamp};
use crate::store;

/// How long a token is good.
pub const TOKEN_LIFE: Duration = Duration::from_secs(24 * 3600);
/// What a token allows.
const SCOPE: &str = "component:register";
/// The file of the keys in the state directory.
const KEYS: &str = "tokens.key";
/// Keys that are good at the same time: the newest, and the one before it.
const MAX_KEYS: usize = 2;
/// Bytes of a key.
const KEY_BYTES: usize = 32;
/// By how much the clocks of two hosts may differ.
const LEEWAY_SECONDS: u64 = 30;

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Claims {
    component_id: String,
    /// Absent for a component that does not run here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
    /// Seconds since the Unix epoch.
    iat: u64,
    /// Seconds since the Unix epoch.
    exp: u64,
    scope: String,
}

/// Whose token it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bearer {
    /// An instance that was started here.
    Instance(InstanceId),
    /// A component that runs elsewhere, by the name under which it registers.
    Outsider(ServiceId),
}

impl fmt::Display for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instance(instance) => instance.fmt(f),
            Self::Outsider(name) => name.fmt(f),
        }
    }
}

/// Why a token was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Its time is over.
    #[error("the token has expired; read the renewed one from COMPONENT_TOKEN_FILE")]
    Expired,
    /// It is not one of ours, or was tampered with.
    #[error("the token is not valid here: {0}")]
    Invalid(String),
    /// It was made for something else.
    #[error("the token is for `{0}`, not for `{SCOPE}`")]
    WrongScope(String),
}

/// Why the keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or written.
    #[error("cannot {doing} the token keys in {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// The file holds something else.
    #[error(
        "{} holds no token keys; move it away, and the next start makes new ones",
        path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// The host gives no random bytes.
    #[error("the host gives no random bytes for a token key")]
    NoRandomness,
}

/// A key.
type Key = [u8; KEY_BYTES];
/// What changes about a file when it is replaced.
type Stamp = Option<(SystemTime, u64)>;

/// The keys that tokens are signed with.
pub struct Keyring {
    /// Where they are kept; `None` = nowhere.
    path: Option<PathBuf>,
    held: RwLock<Held>,
}

struct Held {
    /// Newest first; never empty.
    keys: Vec<Key>,
    stamp: Stamp,
}

/// Whether the keys are others than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refreshed {
    /// They are: tokens should be issued anew.
    Changed,
    /// They are not.
    Same,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyring({} keys)", self.keys().len())
    }
}

impl Keyring {
    /// The keys of a state directory; made when there are none.
    ///
    /// # Errors
    /// When the file cannot be read or written, or holds something else.
    pub fn open(state_dir: &Path) -> Result<Self, KeyError> {
        provide_crypto();
        let path = state_dir.join(KEYS);
        if !path.exists() {
            save(&path, &[new_key()?])?;
        }
        let held = RwLock::new(read(&path)?);
        Ok(Self {
            path: Some(path),
            held,
        })
    }

    /// Keys that are kept nowhere, for tests and for servers without a state directory.
    ///
    /// # Errors
    /// When the host gives no random bytes.
    pub fn transient() -> Result<Self, KeyError> {
        provide_crypto();
        let keys = vec![new_key()?];
        Ok(Self {
            path: None,
            held: RwLock::new(Held { keys, stamp: None }),
        })
    }

    /// Adds a new key, which signs from now on, and drops all but the one before it.
    ///
    /// # Errors
    /// When the file cannot be written; the keys are as before then.
    pub fn rotate(&self) -> Result<(), KeyError> {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        let mut keys = vec![new_key()?];
        keys.extend_from_slice(&held.keys[..held.keys.len().min(MAX_KEYS - 1)]);
        if let Some(path) = &self.path {
            save(path, &keys)?;
            held.stamp = stamp(path);
        }
        held.keys = keys;
        Ok(())
    }

    /// Reads the keys anew when their file was replaced.
    ///
    /// # Errors
    /// When the file cannot be read; the keys are as before then.
    pub fn refresh(&self) -> Result<Refreshed, KeyError> {
        let Some(path) = &self.path else {
            return Ok(Refreshed::Same);
        };
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        let now = stamp(path);
        if now == held.stamp {
            return Ok(Refreshed::Same);
        }
        // A file that cannot be read is told of once.
        held.stamp = now;
        let read = read(path)?;
        let same = read.keys == held.keys;
        *held = read;
        Ok(if same {
            Refreshed::Same
        } else {
            Refreshed::Changed
        })
    }

    fn keys(&self) -> Vec<Key> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.keys.clone()
    }

    /// A token of `instance`, good from `now` on for [`TOKEN_LIFE`].
    pub fn issue(&self, instance: &InstanceId, now: Timestamp) -> String {
        self.sign(
            instance.replica.component.to_string(),
            Some(instance.to_string()),
            now,
            TOKEN_LIFE,
        )
    }

    /// A token of a component that does not run here, good from `now` on for `life`.
    pub fn issue_outside(&self, name: &ServiceId, now: Timestamp, life: Duration) -> String {
        self.sign(name.to_string(), None, now, life)
    }

    fn sign(
        &self,
        component_id: String,
        instance: Option<String>,
        now: Timestamp,
        life: Duration,
    ) -> String {
        let iat = seconds(now);
        let claims = Claims {
            component_id,
            instance,
            iat,
            exp: iat.saturating_add(life.as_secs()),
            scope: SCOPE.to_owned(),
        };
        let key = EncodingKey::from_secret(&self.keys()[0]);
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key)
            .expect("texts and numbers can be signed with a key of this kind")
    }

    /// Whose token `token` is, at `now`.
    ///
    /// # Errors
    /// When it is not one of ours, or its time is over.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Bearer, TokenError> {
        let validation = validation();
        let mut refused = TokenError::Invalid("it is signed with no key of ours".to_owned());
        for key in self.keys() {
            let key = DecodingKey::from_secret(&key);
            match jsonwebtoken::decode::<Claims>(token, &key, &validation) {
                Ok(token) => return check(&token.claims, now),
                Err(error) if *error.kind() == ErrorKind::InvalidSignature => {}
                Err(error) => refused = TokenError::Invalid(error.to_string()),
            }
        }
        Err(refused)
    }

    /// Whether `token` is to be replaced at `now`: it is past half of its life, or the newest key
    /// did not sign it.
    pub fn is_stale(&self, token: &str, now: Timestamp) -> bool {
        let key = DecodingKey::from_secret(&self.keys()[0]);
        let signed = jsonwebtoken::decode::<Claims>(token, &key, &validation());
        signed.map_or(true, |token| {
            seconds(now) >= token.claims.iat + TOKEN_LIFE.as_secs() / 2
        })
    }
}

/// Time is an input here, so the library does not look at it.
fn validation() -> Validation {
    let mut validation = Validation::new(Algorithm::HS256);
    validation.validate_exp = false;
    validation.required_spec_claims.clear();
    validation
}

fn stamp(path: &Path) -> Stamp {
    let about = fs::metadata(path).ok()?;
    // Every replacement is another file.
    Some((about.modified().ok()?, about.ino()))
}

fn read(path: &Path) -> Result<Held, KeyError> {
    let failed = |doing| {
        move |source| KeyError::Io {
            doing,
            path: path.to_owned(),
            source,
        }
    };
    let stamp = stamp(path);
    // A copy or an editor may have opened it to others.
    fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed("protect"))?;
    let text = fs::read_to_string(path).map_err(failed("read"))?;
    let keys: Option<Vec<_>> = text.lines().map(from_hex).collect();
    match keys {
        Some(keys) if !keys.is_empty() => Ok(Held { keys, stamp }),
        Some(_) | None => Err(KeyError::Malformed {
            path: path.to_owned(),
        }),
    }
}

fn save(path: &Path, keys: &[Key]) -> Result<(), KeyError> {
    let text: String = keys.iter().map(|key| to_hex(key) + "\n").collect();
    store::write_private(path, text.as_bytes()).map_err(|source| KeyError::Io {
        doing: "write",
        path: path.to_owned(),
        source,
    })
}

fn check(claims: &Claims, now: Timestamp) -> Result<Bearer, TokenError> {
    if claims.scope != SCOPE {
        return Err(TokenError::WrongScope(claims.scope.clone()));
    }
    if seconds(now) > claims.exp.saturating_add(LEEWAY_SECONDS) {
        return Err(TokenError::Expired);
    }
    if claims.iat > seconds(now).saturating_add(LEEWAY_SECONDS) {
        return Err(TokenError::Invalid("it was made in the future".to_owned()));
    }
    let Some(instance) = &claims.instance else {
        let name = claims.component_id.parse();
        let name = name.map_err(|error: BadServiceId| TokenError::Invalid(error.to_string()))?;
        return Ok(Bearer::Outsider(name));
    };
    let instance: InstanceId = instance
        .parse()
        .map_err(|error| TokenError::Invalid(format!("{error}")))?;
    if instance.replica.component.as_str() != claims.component_id {
        return Err(TokenError::Invalid(
            "its component and instance differ".to_owned(),
        ));
    }
    Ok(Bearer::Instance(instance))
}

fn seconds(at: Timestamp) -> u64 {
    u64::try_from(at.as_millis() / 1000).unwrap_or_default()
}

fn new_key() -> Result<[u8; KEY_BYTES], KeyError> {
    let mut key = [0; KEY_BYTES];
    SystemRandom::new()
        .fill(&mut key)
        .map_err(|_| KeyError::NoRandomness)?;
    Ok(key)
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<[u8; KEY_BYTES]> {
    let mut key = [0; KEY_BYTES];
    if text.len() != 2 * KEY_BYTES {
        return None;
    }
    for (at, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(key)
}

/// HMAC-SHA256 of ring, for the token library, which brings no cryptography of its own.
struct Hmac(hmac::Key);

impl Signer<Vec<u8>> for Hmac {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, signature::Error> {
        Ok(hmac::sign(&self.0, message).as_ref().to_vec())
    }
}

impl Verifier<Vec<u8>> for Hmac {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        hmac::verify(&self.0, message, signature).map_err(|_| signature::Error::new())
    }
}

impl JwtSigner for Hmac {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

impl JwtVerifier for Hmac {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |algorithm, key| Ok(Box::new(hmac_of(*algorithm, key.as_bytes())?)),
    verifier_factory: |algorithm, key| Ok(Box::new(hmac_of(*algorithm, key.try_get_as_bytes()?)?)),
    key_utils: KeyUtils::new_unimplemented(),
};

fn hmac_of(algorithm: Algorithm, key: &[u8]) -> Result<Hmac, JwtError> {
    if algorithm == Algorithm::HS256 {
        Ok(Hmac(hmac::Key::new(hmac::HMAC_SHA256, key)))
    } else {
        Err(ErrorKind::InvalidAlgorithm.into())
    }
}

fn provide_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        PROVIDER
            .install_default()
            .expect("nobody else in this program installs one");
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn instance() -> InstanceId {
        "default.p.ttp.0.3".parse().unwrap()
    }

    fn bearer() -> Bearer {
        Bearer::Instance(instance())
    }

    const NOW: i64 = 1_795_228_980_000;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(NOW + millis)
    }

    #[test]
    fn a_token_names_its_instance_for_a_day() {
        let keys = Keyring::transient().unwrap();
        let token = keys.issue(&instance(), at(0));
        assert_eq!(keys.verify(&token, at(0)), Ok(bearer()));
        let day = i64::try_from(TOKEN_LIFE.as_millis()).unwrap();
        assert_eq!(keys.verify(&token, at(day)), Ok(bearer()));
        assert_eq!(
            keys.verify(&token, at(day + 32_000)),
            Err(TokenError::Expired)
        );
        assert!(matches!(
            keys.verify(&token, at(-60_000)),
            Err(TokenError::Invalid(_))
        ));
    }

    #[test]
    fn an_outsiders_token_names_it_for_as_long_as_it_was_given() {
        let keys = Keyring::transient().unwrap();
        let name: ServiceId = "far".parse().unwrap();
        let token = keys.issue_outside(&name, at(0), Duration::from_secs(60));
        assert_eq!(keys.verify(&token, at(0)), Ok(Bearer::Outsider(name)));
        assert_eq!(keys.verify(&token, at(100_000)), Err(TokenError::Expired));
    }

    #[test]
    fn a_token_of_another_daemon_is_refused() {
        let token = Keyring::transient().unwrap().issue(&instance(), at(0));
        let refused = Keyring::transient()
            .unwrap()
            .verify(&token, at(0))
            .unwrap_err();
        assert!(refused.to_string().contains("no key of ours"), "{refused}");
    }

    #[test]
    fn a_token_without_a_signature_is_refused_whatever_it_claims() {
        // {"alg":"none"} . {"component_id":"ttp", ..} .
        let token = "eyJhbGciOiJub25lIn0.eyJjb21wb25lbnRfaWQiOiJ0dHAifQ.";
        assert!(Keyring::transient().unwrap().verify(token, at(0)).is_err());
    }

    #[test]
    fn the_keys_are_private_and_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let token = Keyring::open(dir.path()).unwrap().issue(&instance(), at(0));
        let mode = fs::metadata(dir.path().join(KEYS))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = Keyring::open(dir.path()).unwrap();
        assert_eq!(again.verify(&token, at(0)), Ok(bearer()));
    }

    #[test]
    fn a_rotation_keeps_the_tokens_of_the_key_before_and_no_older_ones() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keyring::open(dir.path()).unwrap();
        let token = keys.issue(&instance(), at(0));
        keys.rotate().unwrap();
        let newer = keys.issue(&instance(), at(0));
        assert_ne!(token, newer);
        assert_eq!(keys.verify(&token, at(0)), Ok(bearer()));
        let keys = Keyring::open(dir.path()).unwrap();
        keys.rotate().unwrap();
        assert!(keys.verify(&token, at(0)).is_err());
        assert_eq!(keys.verify(&newer, at(0)), Ok(bearer()));
    }

    #[test]
    fn a_daemon_takes_up_keys_that_somebody_else_rotated() {
        let dir = tempfile::tempdir().unwrap();
        let daemons = Keyring::open(dir.path()).unwrap();
        let before = daemons.issue(&instance(), at(0));
        assert_eq!(daemons.refresh().unwrap(), Refreshed::Same);
        assert!(!daemons.is_stale(&before, at(0)));
        Keyring::open(dir.path()).unwrap().rotate().unwrap();
        assert_eq!(daemons.refresh().unwrap(), Refreshed::Changed);
        assert!(daemons.is_stale(&before, at(0)), "it is to be replaced");
        assert_eq!(daemons.verify(&before, at(0)), Ok(bearer()));
        let after = daemons.issue(&instance(), at(0));
        assert!(!daemons.is_stale(&after, at(0)));
        fs::write(dir.path().join(KEYS), "hello").unwrap();
        assert!(daemons.refresh().is_err());
        assert_eq!(daemons.verify(&after, at(0)), Ok(bearer()), "it goes on");
        assert_eq!(daemons.refresh().unwrap(), Refreshed::Same, "told once");
    }

    #[test]
    fn a_token_is_to_be_replaced_at_half_of_its_life() {
        let keys = Keyring::transient().unwrap();
        let token = keys.issue(&instance(), at(0));
        let half = i64::try_from(TOKEN_LIFE.as_millis()).unwrap() / 2;
        assert!(!keys.is_stale(&token, at(half - 1000)));
        assert!(keys.is_stale(&token, at(half)));
        assert!(keys.is_stale("torn", at(0)));
    }

    #[test]
    fn a_file_that_holds_something_else_is_left_alone_and_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(KEYS), "hello").unwrap();
        let refused = Keyring::open(dir.path()).unwrap_err().to_string();
        assert!(
            refused.contains("tokens.key holds no token keys"),
            "{refused}"
        );
    }

    proptest! {
        #[test]
        fn no_text_crashes_the_check_and_no_changed_token_passes(
            noise in ".{0,200}",
            position in 0usize..300,
            byte in any::<u8>(),
        ) {
            let keys = Keyring::transient().unwrap();
            prop_assert!(keys.verify(&noise, at(0)).is_err());
            let token = keys.issue(&instance(), at(0));
            let mut changed = token.clone().into_bytes();
            let position = position % changed.len();
            changed[position] = byte;
            if let Ok(changed) = String::from_utf8(changed)
                && changed != token
            {
                prop_assert!(keys.verify(&changed, at(0)).is_err(), "{}", changed);
            }
        }
    }
}
