//! Layers: tar archives without owners and times, in the order of their paths.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use tar::{Builder, EntryType, Header};

enum Entry {
    Directory { mode: u32 },
    File { mode: u32, content: Vec<u8> },
    Link { target: String },
}

/// A layer in the making. Paths are relative to the image's root.
#[derive(Default)]
pub(crate) struct Layer {
    entries: BTreeMap<String, Entry>,
}

impl Layer {
    /// An empty layer.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A file with this content. Putting a path twice is fine where both are the same.
    pub(crate) fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        if let Some(Entry::File { content: before, .. }) = self.entries.get(path)
            && before != content
        {
            bail!("two different files want to be /{path}");
        }
        self.put(path, Entry::File { mode, content: content.to_vec() });
        Ok(())
    }

    /// A program or library of this machine.
    pub(crate) fn copy(&mut self, from: &Path, path: &str) -> Result<()> {
        self.copy_as(from, path, 0o755)
    }

    /// A file of this machine with that mode.
    pub(crate) fn copy_as(&mut self, from: &Path, path: &str, mode: u32) -> Result<()> {
        let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.file(path, mode, &content)
    }

    /// A symbolic link.
    pub(crate) fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.put(path, Entry::Link { target: target.to_owned() });
        Ok(())
    }

    /// A directory.
    pub(crate) fn directory(&mut self, path: &str, mode: u32) -> Result<()> {
        self.put(path, Entry::Directory { mode });
        Ok(())
    }

    fn put(&mut self, path: &str, entry: Entry) {
        for (at, _) in path.match_indices('/') {
            let parent = path.get(..at).unwrap_or_default().to_owned();
            self.entries.entry(parent).or_insert(Entry::Directory { mode: 0o755 });
        }
        self.entries.insert(path.to_owned(), entry);
    }

    /// The archive.
    pub(crate) fn finish(self) -> Result<Vec<u8>> {
        let mut tar = Builder::new(Vec::new());
        for (path, entry) in &self.entries {
            append(&mut tar, path, entry).with_context(|| format!("cannot archive /{path}"))?;
        }
        Ok(tar.into_inner()?)
    }
}

fn append<W: Write>(tar: &mut Builder<W>, path: &str, entry: &Entry) -> std::io::Result<()> {
    match entry {
        Entry::Directory { mode } => {
            let mut header = header(EntryType::Directory, *mode, 0);
            tar.append_data(&mut header, format!("{path}/"), std::io::empty())
        }
        Entry::File { mode, content } => {
            let mut header = header(EntryType::Regular, *mode, content.len() as u64);
            tar.append_data(&mut header, path, content.as_slice())
        }
        Entry::Link { target } => {
            tar.append_link(&mut header(EntryType::Symlink, 0o777, 0), path, target)
        }
    }
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(layer: Layer) -> Vec<String> {
        let bytes = layer.finish().unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let entries = archive.entries().unwrap();
        entries.map(|e| e.unwrap().path().unwrap().display().to_string()).collect()
    }

    #[test]
    fn parents_come_before_their_children() {
        let mut layer = Layer::new();
        layer.file("usr/lib/deep/a", 0o644, b"a").unwrap();
        layer.link("lib", "usr/lib").unwrap();
        assert_eq!(paths(layer), ["lib", "usr/", "usr/lib/", "usr/lib/deep/", "usr/lib/deep/a"]);
    }

    #[test]
    fn the_order_of_making_does_not_show() {
        let make = |names: [&str; 2]| {
            let mut layer = Layer::new();
            for name in names {
                layer.file(name, 0o644, name.as_bytes()).unwrap();
            }
            layer.finish().unwrap()
        };
        assert_eq!(make(["a/x", "b/y"]), make(["b/y", "a/x"]));
    }

    #[test]
    fn one_path_cannot_be_two_files() {
        let mut layer = Layer::new();
        layer.file("a", 0o644, b"1").unwrap();
        layer.file("a", 0o644, b"1").unwrap();
        assert!(layer.file("a", 0o644, b"2").is_err());
    }
}
