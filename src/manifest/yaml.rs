//! The one place that knows `serde_yaml`: what type an unquoted scalar has, and YAML output.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use super::tree::{Node, Scalar, Style, Value};

/// `value` as YAML text.
///
/// # Errors
/// When the value cannot be written as YAML, such as a map whose keys are lists.
pub fn to_string<T: Serialize>(value: &T) -> Result<String, serde_yaml::Error> {
    serde_yaml::to_string(value)
}

/// An unquoted scalar as the type wanted, by YAML's rules (`0x1f`, `0o17`, `.5`, `true`).
pub(super) fn typed<T: DeserializeOwned>(scalar: &Scalar<'_>) -> Option<T> {
    match scalar.style {
        Style::Plain => serde_yaml::from_str(&scalar.text).ok(),
        Style::Text => None,
    }
}

/// A free-form value with the types that YAML gives its scalars; texts go through `text` first.
pub(super) fn free_form<'t>(
    node: &'t Node<'t>,
    text: &mut impl FnMut(&Node<'t>, &str) -> String,
) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::List(items) => Json::Array(items.iter().map(|item| free_form(item, text)).collect()),
        Value::Map(entries) => {
            let pairs = entries
                .iter()
                .map(|entry| (entry.key.to_string(), free_form(&entry.node, text)));
            Json::Object(pairs.collect())
        }
        // What JSON cannot hold (`.nan`, a date) stays the text that it was written as.
        Value::Scalar(scalar) => match typed::<Json>(scalar) {
            Some(typed @ (Json::Bool(_) | Json::Number(_))) => typed,
            Some(Json::Null | Json::String(_) | Json::Array(_) | Json::Object(_)) | None => {
                Json::String(text(node, &scalar.text))
            }
        },
    }
}
