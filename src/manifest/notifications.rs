//! Notification files: who is told of what is wrong, and how.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::model::{
    Address, ConditionKind, Destination, HeartbeatSpec, HumanDuration, NotifyMatch, NotifySpec,
    NotifyTarget, PipelineKey, TargetName, TellEnd, WebhookFormat,
};

use super::documents;
use super::fields::{Field, Fields, owned};
use super::problem::{Findings, Problems, Span};
use super::suggest;
use super::tree::{Node, Value};

/// A heartbeat that comes more often than this is a load and no message.
const SHORTEST_BEAT: u64 = 10;
/// The most targets of a file.
const MAX_TARGETS: usize = 100;

/// Says of a file that is named for a secret why it cannot be read.
pub type LookAt<'a> = &'a dyn Fn(&Path) -> Result<(), String>;

/// A notification file without errors.
#[derive(Clone, Debug, PartialEq)]
pub struct ParsedNotify {
    /// What it says.
    pub spec: NotifySpec,
    /// What is worth telling of it; often nothing.
    pub warnings: Problems,
}

/// Reads a notification file. `file` is what problems call it; relative paths are meant from `base`.
/// Each file that holds a secret is handed to `look`.
///
/// # Errors
/// All problems of the text.
pub fn parse_notify(
    file: &str,
    text: &[u8],
    base: &Path,
    look: LookAt<'_>,
) -> Result<ParsedNotify, Problems> {
    let (documents, mut findings) = documents(file, text)?;
    let mut spec = NotifySpec::default();
    let mut reader = Reader {
        base,
        look,
        whose: Whose::Host,
        names: BTreeMap::new(),
    };
    for document in &documents {
        match &document.value {
            Value::Null => {}
            Value::List(items) => reader.items(items, &mut spec, &mut findings),
            Value::Scalar(_) | Value::Map(_) => findings.error(
                document.at,
                format!("a notification file is a list, not {}", document.kind()),
                Some("write `- name: NAME` and below it `to: ..`".to_owned()),
            ),
        }
    }
    if findings.has_errors() {
        return Err(findings.finish(file));
    }
    Ok(ParsedNotify {
        spec,
        warnings: findings.finish(file),
    })
}

/// Whether a text is meant to be a notification file: a list, which no manifest is.
pub fn is_notify(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else {
        return false;
    };
    let mut lines = text.lines();
    let first = lines.find(|line| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with('#') && line != "---"
    });
    first.is_some_and(|line| line.starts_with("- ") || line.starts_with('['))
}

/// Reads `spec.notify` of the pipeline `key`, whose components are called `ids`. What is said there
/// is of that pipeline alone.
pub(super) fn of_pipeline<'a>(
    field: Field<'_>,
    key: &PipelineKey,
    ids: impl Iterator<Item = &'a str> + Clone,
    base: &Path,
    findings: &mut Findings<'_>,
) -> Vec<NotifyTarget> {
    let Some(items) = field.list(findings) else {
        return Vec::new();
    };
    let mut reader = Reader {
        base,
        // Its secrets may come later: a message that lacks one is tried again.
        look: &|_| Ok(()),
        whose: Whose::Pipeline,
        names: BTreeMap::new(),
    };
    let mut spec = NotifySpec::default();
    reader.items(items, &mut spec, findings);
    for target in &mut spec.targets {
        target.name = target.name.within(key);
        target.only.namespace = Some(key.namespace.clone());
        target.only.pipeline = Some(key.name.clone());
        let Some(id) = &target.only.component else {
            continue;
        };
        if !ids.clone().any(|known| known == id.as_str()) {
            let message = format!("`match` names `{id}`, but there is no such component");
            let fix = suggest::did_you_mean(id.as_str(), ids.clone());
            findings.error(field.key_at, message, fix);
        }
    }
    spec.targets
}

/// Who says who is told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// Whoever looks after the host.
    Host,
    /// The author of a pipeline.
    Pipeline,
}

/// What only the host's own file may say.
const HOST_ONLY: &str = "write it into `notify.yaml` of the daemon";

struct Reader<'a> {
    base: &'a Path,
    whose: Whose,
    look: LookAt<'a>,
    names: BTreeMap<TargetName, Span>,
}

impl Reader<'_> {
    fn items(&mut self, items: &[Node<'_>], spec: &mut NotifySpec, findings: &mut Findings<'_>) {
        for (index, item) in items.iter().enumerate() {
            if index == MAX_TARGETS {
                let message = format!("more than {MAX_TARGETS} targets");
                findings.error(item.at, message, None);
                return;
            }
            let Some(mut fields) = Fields::open(item, "a notification target", findings) else {
                continue;
            };
            let name = self.name(&mut fields, findings);
            if let Some(field) = fields.get("heartbeat") {
                if self.whose == Whose::Pipeline {
                    let message = "a heartbeat tells how the whole daemon is, not one pipeline";
                    findings.error(field.key_at, message, HOST_ONLY.to_owned());
                }
                let beat = self.heartbeat(field, findings);
                fields.close(findings);
                if let (Some(name), Some((address, every))) = (name, beat) {
                    spec.heartbeats.push(HeartbeatSpec {
                        name,
                        address,
                        every,
                    });
                }
                continue;
            }
            let target = self.target(&mut fields, findings);
            fields.close(findings);
            if let (Some(name), Some(target)) = (name, target) {
                spec.targets.push(NotifyTarget { name, ..target });
            }
        }
    }

    fn name(&mut self, fields: &mut Fields<'_>, findings: &mut Findings<'_>) -> Option<TargetName> {
        let Some(field) = fields.get("name") else {
            let fix = "add `name: NAME`".to_owned();
            fields.missing(&["name"], fields.at, "the target has no name", fix);
            return None;
        };
        let name: TargetName = field.parsed(findings)?;
        if name.is_of_a_pipeline() {
            let message = format!("`{name}` is not a valid target name: use no `.`");
            findings.error(field.node.at, message, None);
            return None;
        }
        if let Some(first) = self.names.insert(name.clone(), field.node.at) {
            let message = format!("two targets are named `{name}`");
            findings.clash(field.node.at, message, first, "first used here");
            return None;
        }
        Some(name)
    }

    fn target(
        &mut self,
        fields: &mut Fields<'_>,
        findings: &mut Findings<'_>,
    ) -> Option<NotifyTarget> {
        let least = HumanDuration::default();
        let when = fields.get("when").map(|field| kinds(field, findings));
        let lasting = fields.get("for").and_then(|f| f.duration(findings, least));
        let repeat = fields
            .get("repeat")
            .and_then(|f| f.duration(findings, HumanDuration::from_secs(60)));
        let only = fields.get("match");
        let only = only.and_then(|f| matching(f, self.whose, findings));
        let resolved = fields.get("resolved").and_then(|f| f.truth(findings));
        let Some(to) = fields.get("to") else {
            let fix = "add `to: {webhook: {url_file: FILE}}`, `to: {exec: [PROGRAM]}`, \
                       `to: {alertmanager: {url: URL}}` or `heartbeat: ..`";
            let message = "the target does not say where to";
            fields.missing(&["to"], fields.at, message, fix.to_owned());
            return None;
        };
        Some(NotifyTarget {
            name: PLACEHOLDER.parse().expect("it is a label"),
            when: when.unwrap_or_default(),
            lasting,
            repeat,
            only: only.unwrap_or_default(),
            resolved: match resolved {
                Some(false) => TellEnd::No,
                Some(true) | None => TellEnd::Yes,
            },
            to: self.destination(to, findings)?,
        })
    }

    fn destination(&self, to: Field<'_>, findings: &mut Findings<'_>) -> Option<Destination> {
        let mut fields = to.fields("`to`", findings)?;
        let webhook = fields.get("webhook");
        let exec = fields.get("exec");
        let alertmanager = fields.get("alertmanager");
        let written = [webhook, exec, alertmanager].into_iter().flatten();
        let count = written.count();
        if count > 1 {
            findings.error(
                to.key_at,
                "`to` names more than one place",
                Some("make a target of each".to_owned()),
            );
        }
        if count == 0 {
            fields.missing(
                &["webhook", "exec", "alertmanager"],
                to.key_at,
                "`to` names no place",
                "write `webhook`, `exec` or `alertmanager` below it".to_owned(),
            );
        }
        fields.close(findings);
        if let Some(field) = webhook {
            return self.webhook(field, findings);
        }
        if let (Some(field), Whose::Pipeline) = (exec, self.whose) {
            let message = "`exec` runs a program as the daemon's user, outside of any component";
            findings.error(field.key_at, message, HOST_ONLY.to_owned());
        }
        if let Some(field) = exec {
            let command = owned(field.texts(findings)?);
            if command.first().is_none_or(|program| program.is_empty()) {
                field.mismatch(findings, "a program and its arguments", None);
                return None;
            }
            return Some(Destination::Exec { command });
        }
        let mut fields = alertmanager?.fields("`alertmanager`", findings)?;
        let address = self.address(&mut fields, findings);
        fields.close(findings);
        Some(Destination::Alertmanager { address: address? })
    }

    fn webhook(&self, field: Field<'_>, findings: &mut Findings<'_>) -> Option<Destination> {
        let mut fields = field.fields("`webhook`", findings)?;
        let address = self.address(&mut fields, findings);
        let formats = [
            ("json", WebhookFormat::Json),
            ("slack", WebhookFormat::Slack),
            ("ntfy", WebhookFormat::Ntfy),
            ("text", WebhookFormat::Text),
        ];
        let format = fields
            .get("format")
            .and_then(|f| f.choice(findings, &formats));
        let headers_file = fields
            .get_cased(findings, "headers_file")
            .and_then(|f| self.secret(f, findings));
        let secret_file = fields
            .get_cased(findings, "secret_file")
            .and_then(|f| self.secret(f, findings));
        fields.close(findings);
        Some(Destination::Webhook {
            address: address?,
            format: format.unwrap_or(WebhookFormat::Json),
            headers_file,
            secret_file,
        })
    }

    fn heartbeat(
        &self,
        field: Field<'_>,
        findings: &mut Findings<'_>,
    ) -> Option<(Address, HumanDuration)> {
        let mut fields = field.fields("`heartbeat`", findings)?;
        let address = self.address(&mut fields, findings);
        let least = HumanDuration::from_secs(SHORTEST_BEAT);
        let every = fields.get("every");
        let every = every.map_or(Some(HumanDuration::from_secs(60)), |f| {
            f.duration(findings, least)
        });
        fields.close(findings);
        Some((address?, every?))
    }

    fn address(&self, fields: &mut Fields<'_>, findings: &mut Findings<'_>) -> Option<Address> {
        let url = fields.get("url");
        let file = fields.get_cased(findings, "url_file");
        match (url, file) {
            (Some(_), Some(file)) => {
                let fix = Some("leave one of them out".to_owned());
                findings.error(file.key_at, "`url` and `url_file` are both there", fix);
                None
            }
            (Some(url), None) => {
                let word = url.word(findings)?;
                match check_url(word.text) {
                    Ok(()) => Some(Address::Url(word.text.to_owned())),
                    Err(why) => {
                        findings.error(word.at, format!("`url` {why}"), None);
                        None
                    }
                }
            }
            (None, Some(file)) => self.secret(file, findings).map(Address::UrlFile),
            (None, None) => {
                fields.missing(
                    &["url", "url_file"],
                    fields.at,
                    "there is no address",
                    "add `url_file: FILE`, a file that holds it, or `url: URL`".to_owned(),
                );
                None
            }
        }
    }

    /// The path of a file that holds a secret.
    fn secret(&self, field: Field<'_>, findings: &mut Findings<'_>) -> Option<PathBuf> {
        let word = field.word(findings)?;
        let path = self.base.join(word.text);
        if let Err(why) = (self.look)(&path) {
            findings.error(word.at, format!("{} {why}", path.display()), None);
        }
        Some(path)
    }
}

/// Stands in until the name is known to be good.
const PLACEHOLDER: &str = "target";

/// Whether `url` can be asked.
///
/// # Errors
/// What is wrong with it, as in "it ..". It is not repeated: it may hold a secret.
pub fn check_url(url: &str) -> Result<(), &'static str> {
    let rest = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("http://"))
        .ok_or("must begin with `http://` or `https://`")?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err("must not hold a user; write an `Authorization` line into `headers_file`");
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        Some(_) | None => (authority, None),
    };
    if host.is_empty() {
        return Err("names no host");
    }
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Err("has a port that is none");
    }
    if url.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("must not hold blanks");
    }
    Ok(())
}

fn kinds(field: Field<'_>, findings: &mut Findings<'_>) -> Vec<ConditionKind> {
    let mut kinds = Vec::new();
    for word in field.words(findings).unwrap_or_default() {
        match word.text.parse::<ConditionKind>() {
            Ok(kind) => kinds.push(kind),
            Err(error) => {
                let all = ConditionKind::ALL.map(|kind| kind.to_string());
                let names = all.iter().map(String::as_str);
                let fix = suggest::did_you_mean(word.text, names)
                    .unwrap_or_else(|| format!("known are {}", all.join(", ")));
                findings.error(word.at, error.to_string(), Some(fix));
            }
        }
    }
    kinds
}

fn matching(field: Field<'_>, whose: Whose, findings: &mut Findings<'_>) -> Option<NotifyMatch> {
    let mut fields = field.fields("`match`", findings)?;
    if whose == Whose::Pipeline {
        let component = fields.get("component").and_then(|f| f.parsed(findings));
        for name in ["namespace", "pipeline", "labels"] {
            let fix = "leave it out: a pipeline's own `notify` is told of that pipeline alone";
            fields.refuse(findings, name, fix);
        }
        fields.close(findings);
        return Some(NotifyMatch {
            component,
            ..NotifyMatch::default()
        });
    }
    let only = NotifyMatch {
        namespace: fields.get("namespace").and_then(|f| f.parsed(findings)),
        pipeline: fields.get("pipeline").and_then(|f| f.parsed(findings)),
        component: fields.get("component").and_then(|f| f.parsed(findings)),
        labels: fields
            .get("labels")
            .map(|f| f.plain_map(findings))
            .unwrap_or_default(),
    };
    fields.close(findings);
    Some(only)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<NotifySpec, String> {
        let look = |path: &Path| match path.ends_with("missing") {
            true => Err("does not exist".to_owned()),
            false => Ok(()),
        };
        let parsed = parse_notify(
            "notify.yaml",
            text.as_bytes(),
            Path::new("/etc/flow"),
            &look,
        );
        parsed
            .map(|parsed| parsed.spec)
            .map_err(|problems| problems.to_string())
    }

    #[test]
    fn a_whole_file_is_read() {
        let spec = parse(
            "- name: on-call\n  when: [crashloop, failed]\n  for: 1m\n  repeat: 4h\n  match: {pipeline: ttp, labels: {team: data}}\n  to:\n    webhook: {url_file: hook.url, format: slack, secret_file: /run/key}\n- name: mail\n  resolved: false\n  to: {exec: [mail, -s, flowctl, ops@example.org]}\n- name: am\n  to: {alertmanager: {url: 'http://localhost:9093'}}\n- name: dead-man\n  heartbeat: {url_file: hc.url, every: 30s}\n",
        )
        .unwrap();
        assert_eq!(spec.targets.len(), 3);
        assert_eq!(
            spec.targets[0].when,
            [ConditionKind::Crashloop, ConditionKind::Failed]
        );
        assert_eq!(spec.targets[1].resolved, TellEnd::No);
        assert_eq!(
            spec.heartbeats[0].address,
            Address::UrlFile("/etc/flow/hc.url".into())
        );
        assert_eq!(spec.heartbeats[0].every, HumanDuration::from_secs(30));
    }

    #[test]
    fn every_mistake_is_told_with_its_place() {
        let problems = parse(
            "- name: a\n  when: [crashlop]\n  to: {webhook: {url: 'ftp://x', formt: json}}\n- name: a\n  to: {exec: []}\n- to: {webhook: {url_file: missing}}\n- name: b\n  to: {}\n",
        )
        .unwrap_err();
        for wanted in [
            "notify.yaml:2:10: `crashlop` is no condition; did you mean `crashloop`?",
            "notify.yaml:3:23: `url` must begin with `http://` or `https://`",
            "unknown field `formt`",
            "notify.yaml:4:9: two targets are named `a`",
            "notify.yaml:6:28: /etc/flow/missing does not exist",
            "the target has no name",
            "`to` names no place",
        ] {
            assert!(problems.contains(wanted), "{wanted} is not in\n{problems}");
        }
    }

    #[test]
    fn a_bad_address_is_not_repeated() {
        let problem =
            parse("- name: a\n  to: {webhook: {url: 'https://u:pw@host/x'}}\n").unwrap_err();
        assert!(!problem.contains("pw"), "{problem}");
    }

    #[test]
    fn a_list_is_told_from_a_manifest() {
        assert!(is_notify(b"# who is told\n\n- name: a\n"));
        assert!(!is_notify(b"apiVersion: flowctl/v1\nkind: Pipeline\n"));
    }
}
