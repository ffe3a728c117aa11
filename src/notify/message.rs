//! What is told, and its forms. Pure.

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::model::{MessageStatus, StatusCondition, TargetName, Timestamp};

/// So many blocked components of a condition are named; all are counted.
const MOST_BLOCKED: usize = 50;
/// So many bytes of a reason are kept.
const LONGEST_WHY: usize = 1_000;

/// What a chat takes of a message that it does not refuse or cut, in bytes: Discord takes 2,000
/// characters, title included, where Slack takes more.
const CHAT_TAKES: usize = 1_800;
/// Room for the words that there is more.
const REST: usize = 64;

/// A condition as it is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Told {
    #[serde(flatten)]
    pub condition: StatusCondition,
    /// How many components it holds up.
    pub blocked: usize,
}

impl Told {
    pub fn new(condition: &StatusCondition) -> Self {
        let blocked = condition.blocks.len();
        let mut condition = condition.clone();
        condition.blocks.truncate(MOST_BLOCKED);
        let mut end = LONGEST_WHY.min(condition.why.len());
        while !condition.why.is_char_boundary(end) {
            end -= 1;
        }
        condition.why.truncate(end);
        Self { condition, blocked }
    }

    /// `crashloop ttp/sink: exit 1 (failure 5); holds up 3`.
    fn line(&self) -> String {
        let StatusCondition { kind, why, .. } = &self.condition;
        let mut line = format!("{kind} {}", self.condition.subject());
        if !why.is_empty() {
            line.push_str(&format!(": {why}"));
        }
        let named: Vec<String> = self
            .condition
            .blocks
            .iter()
            .take(3)
            .map(|path| format!("{}/{}", path.pipeline, path.component))
            .collect();
        match self.blocked.checked_sub(named.len()) {
            _ if named.is_empty() => {}
            Some(0) | None => line.push_str(&format!("; holds up {}", named.join(", "))),
            Some(more) => {
                line.push_str(&format!("; holds up {} and {more} more", named.join(", ")));
            }
        }
        line
    }
}

/// One message to one target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Message {
    /// Grows with each, never used twice on a host.
    pub id: u64,
    /// To whom.
    pub target: TargetName,
    /// What it says of the conditions.
    pub status: MessageStatus,
    /// When it was decided.
    pub at: Timestamp,
    /// The gravest and oldest first; empty for a test.
    pub conditions: Vec<Told>,
}

impl Message {
    /// The id by which receivers know one that comes twice: `HOST/NUMBER`.
    pub fn id_on(&self, host: &str) -> String {
        format!("{host}/{}", self.id)
    }

    /// What kind of event it is: that of its only or gravest condition.
    pub fn event_type(&self) -> String {
        let Some(first) = self.conditions.first() else {
            return "flowctl.test".to_owned();
        };
        let condition = &first.condition;
        let scope = match (&condition.pipeline, &condition.component) {
            (Some(_), Some(_)) => "component",
            (Some(_), None) => "pipeline",
            (None, _) => "daemon",
        };
        format!("flowctl.{scope}.{}", condition.kind)
    }

    /// One line for people.
    pub fn summary(&self) -> String {
        let prefix = match self.status {
            MessageStatus::Firing => "",
            MessageStatus::Repeated => "still: ",
            MessageStatus::Resolved => "resolved: ",
            MessageStatus::Test => return "a test of flowctl's notifications".to_owned(),
        };
        let first = self.conditions.first().map(Told::line).unwrap_or_default();
        match self.conditions.len() {
            0 | 1 => format!("{prefix}{first}"),
            count => format!("{prefix}{first} (and {} more)", count - 1),
        }
    }

    /// The subject line of a text: the gravest kind and what it is about.
    pub fn title(&self, host: &str) -> String {
        let what = match self.conditions.as_slice() {
            [] => "test".to_owned(),
            [one] => format!("{} {}", one.condition.kind, one.condition.subject()),
            [first, rest @ ..] => format!(
                "{} {} and {} more",
                first.condition.kind,
                first.condition.subject(),
                rest.len()
            ),
        };
        match self.status {
            MessageStatus::Firing | MessageStatus::Test => format!("flowctl on {host}: {what}"),
            MessageStatus::Repeated => format!("flowctl on {host}: still {what}"),
            MessageStatus::Resolved => format!("flowctl on {host}: resolved {what}"),
        }
    }

    /// Everything as text, a line for each condition.
    pub fn text(&self) -> String {
        self.text_within(usize::MAX, str::to_owned)
    }

    /// The same in so many bytes, with each line `escaped`: of what does not fit it is said how much
    /// that is. A text that is too long is refused by those that it is for, each time that it is tried.
    pub fn text_within(&self, limit: usize, escaped: impl Fn(&str) -> String) -> String {
        if self.conditions.is_empty() {
            return self.summary();
        }
        let lines = self.conditions.iter().map(|told| match self.status {
            MessageStatus::Firing | MessageStatus::Repeated => format!(
                "{}\n  since {}; {}",
                told.line(),
                told.condition.since,
                told.condition.action()
            ),
            MessageStatus::Resolved | MessageStatus::Test => {
                format!("resolved: {}", told.line())
            }
        });
        let mut text = String::new();
        for (index, line) in lines.enumerate() {
            let (line, rest) = (escaped(&line), self.conditions.len() - index);
            let fits = text.len() + line.len() + 1 + REST <= limit;
            match (fits, index) {
                (true, 0) => text = line,
                (true, _) => {
                    text.push('\n');
                    text.push_str(&line);
                }
                // One that does not even fit alone is cut.
                (false, 0) => {
                    let mut end = limit.saturating_sub(REST).min(line.len());
                    while !line.is_char_boundary(end) {
                        end -= 1;
                    }
                    text.push_str(&line[..end]);
                    text.push_str("..");
                }
                (false, _) => {
                    text.push_str(&format!("\nand {rest} more: `flowctl status` tells all"));
                    break;
                }
            }
        }
        text
    }

    /// As a CloudEvent.
    pub fn event(&self, host: &str) -> serde_json::Value {
        let conditions = self.conditions.iter().map(|told| {
            let mut value = serde_json::to_value(told).expect("a condition has string keys only");
            value["severity"] = json!(told.condition.kind.severity());
            value["action"] = json!(told.condition.action());
            value
        });
        let subject = match self.conditions.as_slice() {
            [one] => one.condition.subject(),
            [] | [_, ..] => self.target.to_string(),
        };
        json!({
            "specversion": "1.0",
            "id": self.id_on(host),
            "source": format!("flowctl://{host}"),
            "type": self.event_type(),
            "subject": subject,
            "time": self.at,
            "datacontenttype": "application/json",
            "data": {
                "status": self.status,
                "host": host,
                "target": self.target,
                "summary": self.summary(),
                "conditions": conditions.collect::<Vec<_>>(),
            },
        })
    }

    /// As Slack takes it.
    pub fn slack(&self, host: &str) -> serde_json::Value {
        // What would address people or make links is text.
        let escaped = |line: &str| {
            line.replace('&', "&amp;")
                .replace('<', "&lt;")
                .replace('>', "&gt;")
        };
        let text = self.text_within(CHAT_TAKES, escaped);
        json!({"text": format!("*{}*\n{text}", self.title(host))})
    }

    /// As Alertmanager takes it: one alert for each condition, good until `until`.
    pub fn alerts(&self, host: &str, until: Timestamp) -> serde_json::Value {
        let ends = match self.status {
            MessageStatus::Firing | MessageStatus::Repeated | MessageStatus::Test => until,
            MessageStatus::Resolved => self.at,
        };
        if self.conditions.is_empty() {
            return json!([{
                "labels": {"alertname": "FlowctlTest", "host": host, "severity": "none"},
                "annotations": {"summary": self.summary()},
                "startsAt": self.at,
                "endsAt": ends,
            }]);
        }
        let alerts = self.conditions.iter().map(|told| {
            let condition = &told.condition;
            let mut labels = json!({
                "alertname": alert_name(&condition.kind.to_string()),
                "host": host,
                "severity": condition.kind.severity(),
                "subject": condition.subject(),
            });
            for (label, value) in [
                (
                    "namespace",
                    condition.namespace.as_ref().map(ToString::to_string),
                ),
                (
                    "pipeline",
                    condition.pipeline.as_ref().map(ToString::to_string),
                ),
                (
                    "component",
                    condition.component.as_ref().map(ToString::to_string),
                ),
            ] {
                if let Some(value) = value {
                    labels[label] = json!(value);
                }
            }
            json!({
                "labels": labels,
                "annotations": {
                    "summary": told.line(),
                    "description": condition.action(),
                },
                "startsAt": condition.since,
                "endsAt": ends,
            })
        });
        alerts.collect()
    }
}

/// `FlowctlNotDurable` for `not-durable`.
fn alert_name(kind: &str) -> String {
    let words = kind.split('-').map(|word| {
        let mut letters = word.chars();
        let first = letters.next().map(|letter| letter.to_ascii_uppercase());
        first.into_iter().chain(letters).collect::<String>()
    });
    format!("Flowctl{}", words.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conditions::whole;
    use crate::model::ConditionKind;

    fn message(status: MessageStatus) -> Message {
        let mut condition = whole(
            ConditionKind::Crashloop,
            Timestamp::from_millis(0),
            "exit 1 <b>".to_owned(),
        );
        condition.namespace = Some("default".parse().unwrap());
        condition.pipeline = Some("ttp".parse().unwrap());
        condition.component = Some("sink".parse().unwrap());
        condition.blocks = vec!["default/ttp/audit".to_owned().try_into().unwrap()];
        Message {
            id: 7,
            target: "ops".parse().unwrap(),
            status,
            at: Timestamp::from_millis(60_000),
            conditions: vec![Told::new(&condition)],
        }
    }

    #[test]
    fn an_event_says_what_why_and_whom_it_holds_up() {
        let event = message(MessageStatus::Firing).event("h");
        assert_eq!(event["id"], "h/7");
        assert_eq!(event["type"], "flowctl.component.crashloop");
        assert_eq!(event["subject"], "ttp/sink");
        let condition = &event["data"]["conditions"][0];
        assert_eq!(condition["blocks"][0], "default/ttp/audit");
        assert_eq!(condition["severity"], "critical");
        assert_eq!(
            event["data"]["summary"],
            "crashloop ttp/sink: exit 1 <b>; holds up ttp/audit"
        );
    }

    #[test]
    fn slack_is_not_addressed_by_what_a_component_says() {
        let text = message(MessageStatus::Firing).slack("h")["text"].to_string();
        assert!(
            text.contains("&lt;b&gt;") && !text.contains("<b>"),
            "{text}"
        );
    }

    #[test]
    fn a_text_says_how_much_did_not_fit() {
        let mut message = message(MessageStatus::Firing);
        let one = message.conditions[0].clone();
        message.conditions = vec![one.clone(); 200];
        let text = message.text_within(1_000, str::to_owned);
        assert!(text.len() <= 1_000, "{text}");
        let lines: Vec<&str> = text.lines().collect();
        let told = lines.iter().filter(|line| line.starts_with("crashloop"));
        let left = 200 - told.count();
        let last = format!("and {left} more: `flowctl status` tells all");
        assert_eq!(lines.last(), Some(&last.as_str()));
        assert!(message.slack("h")["text"].as_str().unwrap().len() < 2_000);

        message.conditions = vec![one];
        message.conditions[0].condition.why = "ä".repeat(2_000);
        let text = message.text_within(1_000, str::to_owned);
        assert!(text.len() <= 1_000 && text.ends_with("ä.."), "{text}");
    }

    #[test]
    fn an_alert_bears_the_names_and_ends_when_it_is_resolved() {
        let until = Timestamp::from_millis(600_000);
        let alerts = message(MessageStatus::Resolved).alerts("h", until);
        assert_eq!(alerts[0]["labels"]["alertname"], "FlowctlCrashloop");
        assert_eq!(alerts[0]["labels"]["component"], "sink");
        assert_eq!(alerts[0]["endsAt"], "1970-01-01T00:01:00.000Z");
        assert_eq!(alert_name("not-durable"), "FlowctlNotDurable");
    }
}
