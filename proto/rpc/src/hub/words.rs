//! Enums as the words that Kubernetes objects hold.

#![allow(non_snake_case, reason = "a module is named as its enum")]

/// A module `$name` to read and write the enum `$name` with. Unspecified is left out; a word or a
/// number that is not known becomes unspecified, or a word that nobody takes.
macro_rules! words {
    ($name:ident { $($word:literal => $value:ident),+ $(,)? }) => {
        pub(crate) mod $name {
            use serde::{Deserialize, Deserializer, Serializer};

            use crate::hub::v1alpha1::$name;

            pub(crate) fn serialize<S: Serializer>(value: &i32, to: S) -> Result<S::Ok, S::Error> {
                match $name::try_from(*value) {
                    Ok($name::Unspecified) => to.serialize_none(),
                    $(Ok($name::$value) => to.serialize_some($word),)+
                    Err(_) => to.serialize_some(&format!("{value}")),
                }
            }

            pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<i32, D::Error> {
                let word = Option::<String>::deserialize(from)?;
                Ok(match word.as_deref() {
                    $(Some($word) => $name::$value,)+
                    _ => $name::Unspecified,
                } as i32)
            }
        }
    };
}

words!(NodeAddressType { "InternalIP" => InternalIp, "ExternalIP" => ExternalIp });
