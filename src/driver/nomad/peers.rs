//! What the texts of a component say of others that Nomad has placed, filled in when it starts. Pure.

use std::collections::BTreeMap;

/// Where a component that runs is reached: by port, its first one under the empty name.
pub(super) type Reached = BTreeMap<String, (String, u16)>;

const BEGIN: &str = "${{ components.";
const END: &str = " }}";

/// The components that `text` speaks of.
pub(super) fn named(text: &str) -> impl Iterator<Item = &str> {
    let parts = text.split(BEGIN).skip(1);
    parts.filter_map(|rest| rest.split_once(END)?.0.split_once('.').map(|(id, _)| id))
}

/// `text` with what `peers` say in the place of each reference.
///
/// # Errors
/// What of it is not known yet.
pub(super) fn filled(text: &str, peers: &BTreeMap<String, Reached>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(BEGIN) {
        out.push_str(before);
        let Some((path, behind)) = after.split_once(END) else {
            out.push_str(BEGIN);
            rest = after;
            continue;
        };
        let (id, field) = path.split_once('.').unwrap_or((path, ""));
        let port = field.strip_prefix("ports.").unwrap_or_default();
        let found = peers.get(id).and_then(|ports| ports.get(port));
        let Some((host, number)) = found else {
            return Err(format!(
                "where {id} is reached is not known yet: it does not run"
            ));
        };
        match field {
            "host" => out.push_str(host),
            "address" if host.contains(':') => out.push_str(&format!("[{host}]:{number}")),
            "address" => out.push_str(&format!("{host}:{number}")),
            _ => out.push_str(&number.to_string()),
        }
        rest = behind;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reference_is_replaced_by_what_its_component_was_given() {
        let at = |port| ("10.0.0.7".to_owned(), port);
        let reached = Reached::from([
            (String::new(), at(23_000)),
            ("metrics".to_owned(), at(23_001)),
        ]);
        let peers = BTreeMap::from([("source".to_owned(), reached)]);
        let text =
            "--at=${{ components.source.address }} ${{ components.source.ports.metrics }} ${x}";
        assert_eq!(named(text).collect::<Vec<_>>(), ["source", "source"]);
        let filled_in = filled(text, &peers).unwrap();
        assert_eq!(filled_in, "--at=10.0.0.7:23000 23001 ${x}");
        let host = filled("${{ components.source.host }}", &peers);
        assert_eq!(host.unwrap(), "10.0.0.7");
        let missing = filled("${{ components.sink.address }}", &peers).unwrap_err();
        assert!(missing.contains("where sink is reached"), "{missing}");
    }
}
