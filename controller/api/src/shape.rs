//! Fields by name: what paths in filters and masks may say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FileDescriptorSet};

/// What a field holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A value; times are values, too.
    Value,
    /// A message of this full name.
    Message(String),
    /// Values by keys that callers choose.
    Map,
}

/// A field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Its name in JSON.
    pub json: String,
    /// Whether there are many.
    pub repeated: bool,
    /// Whether it is a list that may be absent, which is not the same as empty.
    pub may_be_absent: bool,
    /// What it holds.
    pub content: Content,
}

/// Where a path leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The path in JSON.
    pub json: Vec<String>,
    /// Whether it passes a list, not counting one it ends at.
    pub through_list: bool,
}

/// Messages that stand for a list, because only messages can be absent; and what is in it.
const LISTS: [(&str, &str); 1] =
    [(".slicewire.hub.v1alpha1.PolicyRules", "slicewire.hub.v1alpha1.PolicyRule")];

type Messages = BTreeMap<String, BTreeMap<String, Field>>;

/// Fields of every message, by their names in the .proto files.
fn messages() -> &'static Messages {
    static MESSAGES: OnceLock<Messages> = OnceLock::new();
    MESSAGES.get_or_init(|| {
        // Compiled in: what a build wrote can be read.
        let set = FileDescriptorSet::decode(slicewire_rpc::hub::DESCRIPTORS).unwrap_or_default();
        let mut all = BTreeMap::new();
        for file in &set.file {
            for message in &file.message_type {
                all.insert(format!("{}.{}", file.package(), message.name()), fields(message));
            }
        }
        all
    })
}

fn fields(message: &DescriptorProto) -> BTreeMap<String, Field> {
    let is_map = |of: &str| {
        let name = of.rsplit('.').next().unwrap_or_default();
        let entry = message.nested_type.iter().find(|n| n.name() == name);
        entry.and_then(|e| e.options.as_ref()).is_some_and(|o| o.map_entry())
    };
    let field = |f: &prost_types::FieldDescriptorProto| {
        let map = is_map(f.type_name());
        let list = LISTS.iter().find(|(list, _)| *list == f.type_name());
        let content = match f.r#type() {
            _ if map => Content::Map,
            _ if let Some((_, item)) = list => Content::Message((*item).to_owned()),
            Type::Message if f.type_name() != ".google.protobuf.Timestamp" => {
                Content::Message(f.type_name().trim_start_matches('.').to_owned())
            }
            _ => Content::Value,
        };
        let repeated = f.label() == Label::Repeated && !map || list.is_some();
        (
            f.name().to_owned(),
            Field {
                json: f.json_name().to_owned(),
                repeated,
                may_be_absent: list.is_some(),
                content,
            },
        )
    };
    message.field.iter().map(field).collect()
}

/// Whether an empty list of this name in JSON says something, because none would say something else.
pub fn says_something_empty(json: &str) -> bool {
    static NAMES: OnceLock<BTreeSet<&str>> = OnceLock::new();
    let names = NAMES.get_or_init(|| {
        let fields = messages().values().flat_map(BTreeMap::values);
        fields.filter(|f| f.may_be_absent).map(|f| f.json.as_str()).collect()
    });
    names.contains(json)
}

/// The fields of a message by its full name; none when there is no such message.
pub fn fields_of(message: &str) -> Option<&'static BTreeMap<String, Field>> {
    messages().get(message)
}

/// Follows a path of field names from a message on.
///
/// # Errors
/// Which part is not known, and what would be.
pub fn resolve(message: &str, path: &[String]) -> Result<Resolved, String> {
    let mut resolved = Resolved { json: Vec::new(), through_list: false };
    let mut at = Content::Message(message.to_owned());
    let mut list = false;
    for segment in path {
        resolved.through_list |= list;
        let field = match &at {
            Content::Map => {
                resolved.json.push(segment.clone());
                (at, list) = (Content::Value, false);
                continue;
            }
            Content::Value => return Err(format!("there is nothing in it called {segment:?}")),
            Content::Message(name) => {
                let known = fields_of(name).ok_or_else(|| format!("{name} is not known"))?;
                known.get(segment).ok_or_else(|| {
                    let names: Vec<&str> = known.keys().map(String::as_str).collect();
                    format!("there is no field {segment:?}; there are {}", names.join(", "))
                })?
            }
        };
        resolved.json.push(field.json.clone());
        (at, list) = (field.content.clone(), field.repeated);
    }
    Ok(resolved)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_slice(path: &str) -> Result<Resolved, String> {
        let path: Vec<String> = path.split('.').map(str::to_owned).collect();
        resolve("slicewire.hub.v1alpha1.Slice", &path)
    }

    #[test]
    fn paths_are_followed_through_messages_maps_and_lists() {
        let found = of_slice("status.clusters.gateway_prefixes").unwrap();
        assert_eq!(found.json, ["status", "clusters", "gatewayPrefixes"]);
        assert!(found.through_list);
        assert!(!of_slice("spec.prefixes").unwrap().through_list);
        assert_eq!(of_slice("metadata.labels.team").unwrap().json, ["metadata", "labels", "team"]);
        assert_eq!(of_slice("metadata.create_time").unwrap().json[1], "createTime");
    }

    #[test]
    fn what_is_not_there_is_told_with_what_is() {
        assert!(of_slice("spec.prefix").unwrap_err().contains("prefixes"));
        assert!(of_slice("metadata.name.x").is_err());
        assert!(of_slice("metadata.labels.a.b").is_err());
    }
}
