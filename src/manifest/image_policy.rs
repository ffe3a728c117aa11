//! Image policies: which images may run, and what must hold of them.

use std::collections::BTreeMap;
use std::path::Path;

use crate::model::Timestamp;
use crate::model::image::{
    ByDefault, ImagePattern, ImagePolicy, ImageRule, KeySpec, PolicyMode, RegistrySpec, Repository,
    RootSpec, RuleSays, StoreSpec, Transport,
};

use super::documents;
use super::fields::{Field, Fields, scalar};
use super::image_need::{Names, requirement};
use super::problem::{Findings, Problems, Span, shown};
use super::tree::{Node, Value};

/// The version and the kind that a policy states.
const API_VERSION: &str = "flowctl/v1";
const KIND: &str = "ImagePolicy";
/// The most rules, and the most patterns of one.
const MAX_RULES: usize = 1_000;

/// Reads what a policy names, and says what is wrong with it.
pub trait PolicyFiles {
    /// A file that should hold a public key.
    ///
    /// # Errors
    /// What it is instead, as it follows the file's name.
    fn key(&mut self, name: &str, file: &Path) -> Result<(), String>;

    /// A file that should hold a trusted root.
    ///
    /// # Errors
    /// What it is instead, as it follows the file's name.
    fn root(&mut self, name: &str, file: &Path) -> Result<(), String>;

    /// A file that should hold certificates.
    ///
    /// # Errors
    /// What it is instead, as it follows the file's name.
    fn store(&mut self, name: &str, file: &Path) -> Result<(), String>;
}

/// An image policy without errors.
#[derive(Clone, Debug, PartialEq)]
pub struct ParsedImagePolicy {
    /// What it says.
    pub policy: ImagePolicy,
    /// What is worth telling of it; often nothing.
    pub warnings: Problems,
}

/// Reads an image policy. `file` is what problems call it; relative paths are meant from `base`.
///
/// # Errors
/// All problems of the text.
pub fn parse_image_policy(
    file: &str,
    text: &[u8],
    base: &Path,
    files: &mut dyn PolicyFiles,
) -> Result<ParsedImagePolicy, Problems> {
    let (documents, mut findings) = documents(file, text)?;
    let mut written = documents
        .iter()
        .filter(|document| !matches!(document.value, Value::Null));
    let (first, second) = (written.next(), written.next());
    if let Some(second) = second {
        let fix = "write all rules into one".to_owned();
        findings.error(second.at, "a policy is one document, not several", fix);
    }
    let mut reader = Reader {
        base,
        files,
        keys: BTreeMap::new(),
        roots: BTreeMap::new(),
        stores: BTreeMap::new(),
    };
    let policy = first.and_then(|document| reader.policy(document, &mut findings));
    if findings.has_errors() {
        return Err(findings.finish(file));
    }
    match policy {
        Some(policy) => Ok(ParsedImagePolicy {
            policy,
            warnings: findings.finish(file),
        }),
        None => Err(Problems::whole_file(
            file,
            "the file is empty, and an image policy says at least what becomes of all images",
            Some(format!(
                "write `apiVersion: {API_VERSION}`, `kind: {KIND}` and `default: deny`"
            )),
        )),
    }
}

/// Whether a text is meant to be an image policy.
pub fn is_image_policy(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else {
        return false;
    };
    let mut lines = text.lines();
    lines.any(|line| {
        let kind = line.strip_prefix("kind:").unwrap_or_default();
        let kind = kind.split('#').next().unwrap_or_default().trim();
        kind.trim_matches(['"', '\'']) == KIND
    })
}

struct Reader<'a> {
    base: &'a Path,
    files: &'a mut dyn PolicyFiles,
    keys: BTreeMap<String, KeySpec>,
    roots: BTreeMap<String, RootSpec>,
    stores: BTreeMap<String, StoreSpec>,
}

impl Reader<'_> {
    fn policy(&mut self, node: &Node<'_>, findings: &mut Findings<'_>) -> Option<ImagePolicy> {
        let mut fields = Fields::open(node, "an image policy", findings)?;
        head(&mut fields, findings);
        let default = fields.get("default");
        if default.is_none() {
            let fix = "add `default: deny`, or `default: allow`".to_owned();
            let message = "the policy does not say what becomes of images that no rule is about";
            fields.missing(&["default"], fields.at, message, fix);
        }
        let mode = fields.get("mode");
        let keys = fields.get("keys");
        let roots = fields.get("roots");
        let stores = fields.get("stores");
        let registries = fields.get("registries");
        let rules = fields.get("rules");
        fields.close(findings);
        self.keys(keys, findings);
        self.roots(roots, findings);
        self.stores(stores, findings);
        let registries = registries.map(|field| read_registries(field, findings));
        let rules = rules.map(|field| self.rules(field, findings));
        let default = default?;
        let choices = [("deny", ByDefault::Deny), ("allow", ByDefault::Allow)];
        let modes = [("enforce", PolicyMode::Enforce), ("warn", PolicyMode::Warn)];
        Some(ImagePolicy {
            default_line: findings.line(default.key_at),
            default: default.choice(findings, &choices)?,
            mode: match mode {
                Some(mode) => mode.choice(findings, &modes)?,
                None => PolicyMode::Enforce,
            },
            keys: std::mem::take(&mut self.keys),
            roots: std::mem::take(&mut self.roots),
            stores: std::mem::take(&mut self.stores),
            registries: registries.unwrap_or_default(),
            rules: rules.unwrap_or_default(),
        })
    }

    fn keys(&mut self, field: Option<Field<'_>>, findings: &mut Findings<'_>) {
        for (name, at, node) in named(field, findings) {
            let Some(mut fields) = Fields::open(node, "a key", findings) else {
                continue;
            };
            let file = fields.get("file");
            if file.is_none() {
                let fix = "add `file: FILE`, which holds the public key as PEM".to_owned();
                fields.missing(&["file"], at, format!("key `{name}` has no file"), fix);
            }
            let not_after = fields
                .get_cased(findings, "not_after")
                .and_then(|field| day(field, findings));
            fields.close(findings);
            let Some(word) = file.and_then(|file| file.word(findings)) else {
                continue;
            };
            if let Some((scheme, _)) = word.text.split_once("://") {
                let fix = "write its public half to a file: `cosign public-key --key KEY`";
                let message = format!("a `{scheme}` key cannot be asked");
                findings.error(word.at, message, fix.to_owned());
                continue;
            }
            let path = self.base.join(word.text);
            if let Err(why) = self.files.key(name, &path) {
                findings.error(word.at, format!("{} {why}", path.display()), None);
            }
            let key = KeySpec {
                file: path,
                not_after,
            };
            self.keys.insert(name.to_owned(), key);
        }
    }

    fn roots(&mut self, field: Option<Field<'_>>, findings: &mut Findings<'_>) {
        for (name, at, node) in named(field, findings) {
            let Some(mut fields) = Fields::open(node, "a trusted root", findings) else {
                continue;
            };
            let file = fields.get("file");
            if file.is_none() {
                let fix =
                    "add `file: trusted_root.json`; `cosign trusted-root create` writes one, \
                           and `cosign initialize` keeps that of the public instance"
                        .to_owned();
                fields.missing(&["file"], at, format!("root `{name}` has no file"), fix);
            }
            fields.close(findings);
            let Some(word) = file.and_then(|file| file.word(findings)) else {
                continue;
            };
            let path = self.base.join(word.text);
            if let Err(why) = self.files.root(name, &path) {
                findings.error(word.at, format!("{} {why}", path.display()), None);
            }
            self.roots.insert(name.to_owned(), RootSpec { file: path });
        }
    }

    fn stores(&mut self, field: Option<Field<'_>>, findings: &mut Findings<'_>) {
        for (name, at, node) in named(field, findings) {
            let Some(mut fields) = Fields::open(node, "a store of certificates", findings) else {
                continue;
            };
            let file = fields.get("file");
            if file.is_none() {
                let fix = "add `file: FILE`, which holds certificates as PEM".to_owned();
                fields.missing(&["file"], at, format!("store `{name}` has no file"), fix);
            }
            fields.close(findings);
            let Some(word) = file.and_then(|file| file.word(findings)) else {
                continue;
            };
            let path = self.base.join(word.text);
            if let Err(why) = self.files.store(name, &path) {
                findings.error(word.at, format!("{} {why}", path.display()), None);
            }
            self.stores
                .insert(name.to_owned(), StoreSpec { file: path });
        }
    }

    fn rules(&self, field: Field<'_>, findings: &mut Findings<'_>) -> Vec<ImageRule> {
        let mut rules = Vec::new();
        let mut earlier: Vec<(ImagePattern, Span)> = Vec::new();
        for (index, item) in field.list(findings).unwrap_or_default().iter().enumerate() {
            if index == MAX_RULES {
                findings.error(item.at, format!("more than {MAX_RULES} rules"), None);
                break;
            }
            let Some(mut fields) = Fields::open(item, "a rule", findings) else {
                continue;
            };
            let images = patterns(&mut fields, &mut earlier, findings);
            let says = self.says(&mut fields, findings);
            let at = fields.at;
            fields.close(findings);
            if let (Some(images), Some(says)) = (images, says) {
                let line = findings.line(at);
                rules.push(ImageRule { line, images, says });
            }
        }
        rules
    }

    fn says(&self, fields: &mut Fields<'_>, findings: &mut Findings<'_>) -> Option<RuleSays> {
        let require = fields.get("require");
        let allow = fields.get("allow");
        let deny = fields.get("deny");
        let written: Vec<Field<'_>> = [require, allow, deny].into_iter().flatten().collect();
        match written.as_slice() {
            [] => {
                fields.missing(
                    &["require", "allow", "deny"],
                    fields.at,
                    "the rule does not say what holds of its images",
                    "add `require: {digest: pinned}`, `require: {signatures: ..}` or `deny: REASON`"
                        .to_owned(),
                );
                return None;
            }
            [_] => {}
            [_, second, ..] => {
                let fix = Some("write a rule of each".to_owned());
                let message = "a rule has one of `require`, `allow` and `deny`";
                findings.error(second.key_at, message, fix);
                return None;
            }
        }
        if let Some(field) = require {
            let names = Names::Of {
                keys: &self.keys,
                roots: &self.roots,
                stores: &self.stores,
            };
            return requirement(field, self.base, names, findings).map(RuleSays::Require);
        }
        if let Some(field) = deny {
            let why = match &field.node.value {
                Value::Null => None,
                Value::Scalar(scalar) if scalar.text == "true" => None,
                Value::Scalar(_) | Value::List(_) | Value::Map(_) => {
                    Some(field.word(findings)?.text.to_owned())
                }
            };
            return Some(RuleSays::Deny { why });
        }
        let field = allow?;
        let mut fields = field.fields("`allow`", findings)?;
        let local = fields.get("local");
        if local.is_none() {
            let fix = "write `allow: {local: true}` for images that were built on this host, or \
                       `require: {digest: resolved}` for all of these repositories"
                .to_owned();
            fields.missing(&["local"], field.key_at, "`allow` says nothing", fix);
        }
        fields.close(findings);
        match local?.truth(findings)? {
            true => Some(RuleSays::Local),
            false => {
                let fix = Some("leave the rule out".to_owned());
                findings.error(field.key_at, "`local: false` allows nothing", fix);
                None
            }
        }
    }
}

/// `apiVersion` and `kind`.
fn head(fields: &mut Fields<'_>, findings: &mut Findings<'_>) {
    for (name, wanted) in [("apiVersion", API_VERSION), ("kind", KIND)] {
        let Some(field) = fields.get(name) else {
            let fix = format!("add `{name}: {wanted}`");
            let names: &'static [&'static str] = match name {
                "kind" => &["kind"],
                _ => &["apiVersion"],
            };
            fields.missing(names, fields.at, format!("the file has no `{name}`"), fix);
            continue;
        };
        let text = scalar(field.node).map(AsRef::as_ref);
        if text != Some(wanted) {
            let message = format!("`{name}` of an image policy is `{wanted}`");
            findings.error(field.node.at, message, None);
        }
    }
}

/// The entries of a mapping by names of the author's choice.
fn named<'t>(
    field: Option<Field<'t>>,
    findings: &mut Findings<'_>,
) -> Vec<(&'t str, Span, &'t Node<'t>)> {
    let Some(field) = field else {
        return Vec::new();
    };
    match &field.node.value {
        Value::Map(entries) => entries
            .iter()
            .map(|entry| (entry.key.as_ref(), entry.key_at, &entry.node))
            .collect(),
        Value::Null => Vec::new(),
        Value::Scalar(_) | Value::List(_) => {
            field.mismatch(findings, "a mapping of names", None);
            Vec::new()
        }
    }
}

fn read_registries(
    field: Field<'_>,
    findings: &mut Findings<'_>,
) -> BTreeMap<String, RegistrySpec> {
    let mut registries = BTreeMap::new();
    for (name, at, node) in named(Some(field), findings) {
        // A repository in it, so that the host is read as it is in the names of images.
        let host = format!("{name}/x").parse::<Repository>();
        let host = host.ok().map(|it| it.registry().to_owned());
        let is_host = name.contains(['.', ':']) || name == "localhost";
        let Some(mut fields) = Fields::open(node, "a registry", findings) else {
            continue;
        };
        let plain = fields.get("insecure").and_then(|it| it.truth(findings));
        let tokens = fields
            .get_cased(findings, "token_host")
            .and_then(|it| it.word(findings));
        fields.close(findings);
        let Some(host) = host.filter(|_| is_host) else {
            let fix = Some("write a host, with `:PORT` where it has one".to_owned());
            findings.error(at, format!("`{}` is no registry", shown(name)), fix);
            continue;
        };
        let spec = RegistrySpec {
            transport: match plain {
                Some(true) => Transport::Plain,
                Some(false) | None => Transport::Secure,
            },
            token_host: tokens.map(|it| it.text.to_ascii_lowercase()),
        };
        if registries.insert(host, spec).is_some() {
            findings.error(at, "this registry is written twice", None);
        }
    }
    registries
}

fn patterns(
    fields: &mut Fields<'_>,
    earlier: &mut Vec<(ImagePattern, Span)>,
    findings: &mut Findings<'_>,
) -> Option<Vec<ImagePattern>> {
    let Some(field) = fields.get("images") else {
        let fix = "add `images: [\"HOST/OWNER/**\"]`".to_owned();
        let message = "the rule does not say which images it is about";
        fields.missing(&["images"], fields.at, message, fix);
        return None;
    };
    let words = field.words(findings)?;
    if words.is_empty() || words.len() > MAX_RULES {
        field.mismatch(findings, "a list of patterns", None);
        return None;
    }
    let mut read = Vec::new();
    for word in words {
        let pattern: ImagePattern = match word.text.parse() {
            Ok(pattern) => pattern,
            Err(error) => {
                findings.error(word.at, format!("{error}"), None);
                continue;
            }
        };
        if let Some(owner) = pattern.open_owner() {
            findings.warn(
                word.at,
                format!("this matches whoever chooses a name that begins with `{owner}`"),
                Some(format!("write `{owner}/**`")),
            );
        }
        if let Some((_, first)) = earlier.iter().find(|(wide, _)| wide.covers(&pattern)) {
            let message = format!("`{pattern}` is never reached");
            findings.clash(word.at, message, *first, "this comes first, and covers it");
        }
        read.push((pattern, word.at));
    }
    let patterns = read.iter().map(|(pattern, _)| pattern.clone()).collect();
    earlier.extend(read);
    Some(patterns)
}

/// A day, to its end, or a moment.
fn day(field: Field<'_>, findings: &mut Findings<'_>) -> Option<Timestamp> {
    let word = field.word(findings)?;
    let moment = match word.text.contains('T') {
        true => word.text.parse(),
        false => format!("{}T23:59:59Z", word.text).parse(),
    };
    if moment.is_err() {
        let fix = Some("write it as `2027-06-30`".to_owned());
        field.mismatch(findings, "a day", fix);
    }
    moment.ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::image::{DigestNeed, Signer};

    struct Files;

    impl PolicyFiles for Files {
        fn key(&mut self, _: &str, file: &Path) -> Result<(), String> {
            match file.ends_with("private.pem") {
                true => Err("holds a private key".to_owned()),
                false => Ok(()),
            }
        }

        fn root(&mut self, _: &str, _: &Path) -> Result<(), String> {
            Ok(())
        }

        fn store(&mut self, _: &str, _: &Path) -> Result<(), String> {
            Ok(())
        }
    }

    const HEAD: &str = "apiVersion: flowctl/v1\nkind: ImagePolicy\n";

    fn parse(text: &str) -> Result<ParsedImagePolicy, String> {
        let text = format!("{HEAD}{text}");
        let base = Path::new("/etc/flow");
        let parsed = parse_image_policy("images.yaml", text.as_bytes(), base, &mut Files);
        parsed.map_err(|problems| problems.to_string())
    }

    #[test]
    fn a_whole_policy_is_read() {
        let parsed = parse(
            "default: deny\nkeys:\n  release: { file: release.pub, not_after: 2027-06-30 }\nrules:\n  - images: [\"r.acme:5000/**\"]\n    require:\n      digest: resolved\n      signatures: { any: [{ key: release }] }\n  - images: [\"docker.io/library/*\"]\n    require: { digest: pinned }\n  - images: [\"localhost/**\"]\n    allow: { local: true }\n  - images: [\"quay.io/old/**\"]\n    deny: it is not maintained\n",
        )
        .unwrap();
        let policy = parsed.policy;
        assert_eq!(policy.default, ByDefault::Deny);
        assert_eq!(policy.default_line, 3);
        let lines: Vec<u32> = policy.rules.iter().map(|rule| rule.line).collect();
        assert_eq!(lines, [7, 11, 13, 15]);
        assert_eq!(
            policy.keys["release"].file,
            Path::new("/etc/flow/release.pub")
        );
        assert_eq!(policy.rules[2].says, RuleSays::Local);
        let RuleSays::Require(need) = &policy.rules[0].says else {
            panic!("{:?}", policy.rules[0]);
        };
        let signatures = need.signatures.as_ref().unwrap();
        assert_eq!(signatures.any, [Signer::Key("release".to_owned())]);
        assert_eq!(signatures.at_least, 1);
    }

    #[test]
    fn every_mistake_is_told_with_its_place() {
        for (text, wanted) in [
            ("mode: enforce\n", "does not say what becomes of images"),
            (
                "default: denny\n",
                "images.yaml:3:10: `default` must be one of",
            ),
            ("default: deny\ndefault: allow\n", "images.yaml:4:1: "),
            ("default: deny\nrule: []\n", "unknown field `rule`"),
            (
                "default: deny\nrules:\n  - images: [nginx]\n    require: {digest: pinned}\n",
                "images.yaml:5:14: `nginx` names no registry",
            ),
            (
                "default: deny\nrules:\n  - images: [r.io/**]\n    require: {digest: pinned}\n  - images: [r.io/a/*]\n    deny:\n",
                "`r.io/a/*` is never reached",
            ),
            (
                "default: deny\nrules:\n  - images: [r.io/**]\n    require: {}\n",
                "nothing is required",
            ),
            (
                "default: deny\nrules:\n  - images: [r.io/**]\n    require: {signatures: {any: []}}\n",
                "`any` must be a list of signers",
            ),
            (
                "default: deny\nkeys: {release: {file: a.pub}}\nrules:\n  - images: [r.io/**]\n    require: {signatures: {any: [{key: releese}]}}\n",
                "there is no key `releese`; did you mean `release`?",
            ),
            (
                "default: deny\nkeys: {a: {file: private.pem}}\n",
                "images.yaml:4:18: /etc/flow/private.pem holds a private key",
            ),
            (
                "default: deny\nkeys: {a: {file: 'awskms://x'}}\n",
                "a `awskms` key cannot be asked",
            ),
            (
                "default: deny\nrules:\n  - images: [r.io/**]\n    allow: {local: true}\n    deny:\n",
                "a rule has one of",
            ),
            (
                "default: deny\nrules:\n  - images: [r.io/**]\n",
                "does not say what holds",
            ),
            (
                "default: deny\nstores: {s: {file: s.pem}}\nrules:\n  - images: [r.io/**]\n    require: {signatures: {any: [{notation: {store: t, subject: O=acme}}]}}\n",
                "there is no store `t`",
            ),
            (
                "default: deny\nstores: {s: {file: s.pem}}\nrules:\n  - images: [r.io/**]\n    require: {signatures: {any: [{notation: {store: s, subject: '*'}}]}}\n",
                "`*` is no part of a name",
            ),
            (
                "default: deny\nstores: {s: {file: s.pem}}\nrules:\n  - images: [r.io/**]\n    require: {attestations: [{type: provenance, by: {notation: {store: s, subject: O=acme}}}]}\n",
                "Notation signs images, and attests nothing",
            ),
            (
                "default: deny\nkeys: {a: {file: a.pub}}\nrules:\n  - images: [r.io/**]\n    require: {signatures: {any: [{key: a}], no_downgrade: true}}\n",
                "`no_downgrade` goes by when an image was signed",
            ),
            ("default: deny\n---\ndefault: allow\n", "one document"),
            (
                "default: deny\nregistries: {nginx: {insecure: true}}\n",
                "`nginx` is no registry",
            ),
        ] {
            let problems = parse(text).unwrap_err();
            assert!(problems.contains(wanted), "{wanted} is not in\n{problems}");
        }
        let none = parse_image_policy("i.yaml", b"", Path::new("/"), &mut Files).unwrap_err();
        assert!(none.to_string().contains("the file is empty"), "{none}");
    }

    #[test]
    fn the_signers_of_the_help_topic_are_read_as_they_stand() {
        let topic = include_str!("../cli/topics/images.md");
        let (_, begun) = topic.split_once("```yaml\nkeys:\n").unwrap();
        let (text, _) = begun.split_once("```").unwrap();
        let parsed = parse(&format!("default: deny\nkeys:\n{text}")).unwrap();
        assert_eq!(parsed.policy.rules.len(), 3);
        assert_eq!(parsed.warnings.to_string(), "");
    }

    #[test]
    fn an_open_owner_is_warned_of() {
        let text = "default: deny\nrules:\n  - images: [\"ghcr.io/acme*/app\"]\n    require: {digest: pinned}\n";
        let warnings = parse(text).unwrap().warnings.to_string();
        assert!(warnings.contains("write `ghcr.io/acme/**`"), "{warnings}");
    }

    #[test]
    fn a_policy_is_told_from_other_files() {
        assert!(is_image_policy(
            b"apiVersion: flowctl/v1\nkind: ImagePolicy # x\n"
        ));
        assert!(!is_image_policy(
            b"kind: Pipeline\nspec:\n  kind: ImagePolicy\n"
        ));
    }

    #[test]
    fn a_pipeline_asks_for_more_and_never_for_less() {
        let parse = |images: &str| {
            let text = format!(
                "apiVersion: flowctl/v1\nkind: Pipeline\nmetadata: {{ name: p }}\nspec:\n  images: {images}\n  sources:\n    - {{ id: a, image: nginx, driver: docker }}\n"
            );
            let parsed = crate::manifest::parse(
                "p.yaml",
                text.as_bytes(),
                &crate::manifest::Options::at("/"),
            );
            parsed.map_err(|problems| problems.to_string())
        };
        let parsed = parse("{ digest: pinned, signatures: { any: [{ key: release }] } }").unwrap();
        let component = parsed.pipelines[0].components.values().next().unwrap();
        let crate::model::Workload::Docker(container) = &component.workload else {
            panic!("{component:?}");
        };
        let need = container.verify.as_ref().unwrap();
        assert_eq!(need.digest, DigestNeed::Pinned);
        for (images, wanted) in [
            (
                "{ allow: { local: true } }",
                "only the daemon's policy says that",
            ),
            (
                "{ local: true, digest: resolved }",
                "only the daemon's policy says that",
            ),
            (
                "{ keys: { a: { file: a.pub } }, digest: resolved }",
                "only the daemon's policy says that",
            ),
            ("{ default: allow }", "only the daemon's policy says that"),
            ("{ digest: whatever }", "must be one of"),
            ("{}", "nothing is required"),
        ] {
            let problems = parse(images).unwrap_err();
            assert!(problems.contains(wanted), "{images}: {problems}");
        }
    }
}
