//! Compiles the .proto files without a protoc on the machine.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use prost::Message;
use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, FileDescriptorSet};
use tonic_prost_build::Builder;

/// Where the .proto files are.
const ROOT: &str = "proto";
/// The package whose messages are also read and written as the JSON of Kubernetes objects.
const HUB: &str = "slicewire.hub.v1alpha1";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={ROOT}");
    let mut files = Vec::new();
    protos(Path::new(ROOT), &mut files)?;
    files.sort();
    let mut descriptors = protox::compile(&files, [ROOT])?;
    let mut builder = tonic_prost_build::configure().btree_map(".");
    for file in descriptors.file.iter().filter(|f| f.package() == HUB) {
        for message in file.message_type.iter().filter(|m| is_part_of_an_object(m)) {
            builder = as_json(builder, message);
        }
    }
    builder.compile_fds(descriptors.clone())?;
    // For reflection, and for finding fields by name; the comments are only for people.
    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    let folder = PathBuf::from(env::var("OUT_DIR")?);
    let of_hub = |name: &str| name.starts_with("google/") || name.starts_with("slicewire/hub/");
    descriptors.file.retain(|f| of_hub(f.name()));
    fs::write(folder.join("hub.binpb"), FileDescriptorSet::encode_to_vec(&descriptors))?;
    Ok(())
}

fn protos(folder: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            protos(&path, found)?;
        } else if path.extension().is_some_and(|e| e == "proto") {
            found.push(path);
        }
    }
    Ok(())
}

fn is_part_of_an_object(message: &DescriptorProto) -> bool {
    !message.name().ends_with("Request") && !message.name().ends_with("Response")
}

/// JSON as Kubernetes writes it: names in camelCase, enums as words, times as RFC 3339.
fn as_json(mut builder: Builder, message: &DescriptorProto) -> Builder {
    let path = format!(".{HUB}.{}", message.name());
    builder = builder.type_attribute(
        &path,
        "#[derive(serde::Serialize, serde::Deserialize)] #[serde(rename_all = \"camelCase\", default)]",
    );
    for field in &message.field {
        let of = field.type_name().rsplit('.').next().unwrap_or_default();
        let with = match field.r#type() {
            Type::Message if of == "Timestamp" => "time".to_owned(),
            Type::Message if of == "PolicyRules" => "rules".to_owned(),
            Type::String if (message.name(), field.name()) == ("PolicyPort", "port") => {
                "port".to_owned()
            }
            Type::Enum => format!("words::{of}"),
            _ => continue,
        };
        let attribute = format!("#[serde(with = \"crate::hub::{with}\")]");
        builder = builder.field_attribute(format!("{path}.{}", field.name()), attribute);
    }
    builder
}
