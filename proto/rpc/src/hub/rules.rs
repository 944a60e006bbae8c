//! A list that may be absent, which is not the same as empty.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::hub::v1alpha1::{PolicyRule, PolicyRules};

pub(crate) fn serialize<S: Serializer>(
    list: &Option<PolicyRules>,
    to: S,
) -> Result<S::Ok, S::Error> {
    list.as_ref().map(|list| &list.rules).serialize(to)
}

pub(crate) fn deserialize<'de, D>(from: D) -> Result<Option<PolicyRules>, D::Error>
where
    D: Deserializer<'de>,
{
    let rules = Option::<Vec<PolicyRule>>::deserialize(from)?;
    Ok(rules.map(|rules| PolicyRules { rules }))
}
