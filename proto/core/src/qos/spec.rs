//! What is asked for, checked and put together.

use std::collections::BTreeMap;

use crate::violation::Violation;

use super::rate::{Bytes, Rate};

/// The priority of a slice that asks for none.
pub const DEFAULT_PRIORITY: u8 = 4;
/// The highest priority.
pub const MAX_PRIORITY: i32 = 7;

/// Names of code points (RFC 2474, 2597, 3246, 5865, 8622).
const CODE_POINTS: [(&str, u8); 23] = [
    ("CS0", 0),
    ("LE", 1),
    ("CS1", 8),
    ("AF11", 10),
    ("AF12", 12),
    ("AF13", 14),
    ("CS2", 16),
    ("AF21", 18),
    ("AF22", 20),
    ("AF23", 22),
    ("CS3", 24),
    ("AF31", 26),
    ("AF32", 28),
    ("AF33", 30),
    ("CS4", 32),
    ("AF41", 34),
    ("AF42", 36),
    ("AF43", 38),
    ("CS5", 40),
    ("VA", 44),
    ("EF", 46),
    ("CS6", 48),
    ("CS7", 56),
];

/// A differentiated services code point, 0 to 63.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dscp(pub u8);

impl Dscp {
    /// Reads a number, 0 to 63, or a name: `EF`, `AF41`, `CS1`.
    ///
    /// # Errors
    /// It is neither.
    pub fn parse(field: &str, text: &str) -> Result<Self, Violation> {
        let named = CODE_POINTS.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        let number = text.parse::<u8>().ok().filter(|n| *n < 64);
        named.map(|(_, n)| *n).or(number).map(Self).ok_or_else(|| {
            let what =
                "is no code point; 0 to 63 and the names EF, VA, LE, AF11 to AF43, CS0 to CS7 are";
            Violation::new(field, text, "UnknownDscp", what)
        })
    }
}

/// What is asked for in one place, as it was written; what is unset is asked for elsewhere, or not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QosFields {
    /// Most the slice may send from, and receive at, a node, and all gateways of a cluster.
    pub ceiling: Option<String>,
    /// What it gets when slices compete for a node's uplink.
    pub guarantee: Option<String>,
    /// Who gets spare bandwidth first, 0 to 7; higher goes first.
    pub priority: Option<i32>,
    /// The code point of its packets.
    pub dscp: Option<String>,
    /// Bytes that may pass at once after silence.
    pub burst: Option<String>,
    /// Most one pod may send to, and receive from, other nodes.
    pub pod_ceiling: Option<String>,
}

/// What is asked for in one object: for everywhere, and for clusters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QosSource {
    /// Everywhere.
    pub fields: QosFields,
    /// In one cluster, in the order they are written.
    pub clusters: Vec<(String, QosFields)>,
}

/// What holds for a slice in one cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Qos {
    /// Most it may send from, and receive at, a node, and all gateways of the cluster.
    pub ceiling: Option<Rate>,
    /// What it gets when slices compete.
    pub guarantee: Option<Rate>,
    /// Higher gets spare bandwidth first.
    pub priority: u8,
    /// The code point of its packets; unset: as pods send them.
    pub dscp: Option<Dscp>,
    /// Bytes that may pass at once after silence; unset: what the rate needs to be reached.
    pub burst: Option<Bytes>,
    /// Most one pod may send to, and receive from, other nodes.
    pub pod_ceiling: Option<Rate>,
}

impl Default for Qos {
    fn default() -> Self {
        Self {
            ceiling: None,
            guarantee: None,
            priority: DEFAULT_PRIORITY,
            dscp: None,
            burst: None,
            pod_ceiling: None,
        }
    }
}

impl QosFields {
    /// These, and where they say nothing, `below`.
    #[must_use]
    pub fn over(&self, below: &Self) -> Self {
        let pick = |a: &Option<String>, b: &Option<String>| a.clone().or_else(|| b.clone());
        Self {
            ceiling: pick(&self.ceiling, &below.ceiling),
            guarantee: pick(&self.guarantee, &below.guarantee),
            priority: self.priority.or(below.priority),
            dscp: pick(&self.dscp, &below.dscp),
            burst: pick(&self.burst, &below.burst),
            pod_ceiling: pick(&self.pod_ceiling, &below.pod_ceiling),
        }
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What is asked for, as values; fields are named below `at`.
    ///
    /// # Errors
    /// Every fault.
    pub fn parse(&self, at: &str) -> Result<Qos, Vec<Violation>> {
        let (qos, faults) = self.read(at);
        if faults.is_empty() { Ok(qos) } else { Err(faults) }
    }

    fn read(&self, at: &str) -> (Qos, Vec<Violation>) {
        let mut faults = Vec::new();
        let mut keep = |read: Option<Result<Rate, Violation>>| {
            read.and_then(|r| r.map_err(|f| faults.push(f)).ok())
        };
        let rate = |name: &str, text: &Option<String>| {
            text.as_deref().map(|t| Rate::parse(&format!("{at}.{name}"), t))
        };
        let ceiling = keep(rate("ceiling", &self.ceiling));
        let guarantee = keep(rate("guarantee", &self.guarantee));
        let pod_ceiling = keep(rate("podCeiling", &self.pod_ceiling));
        let mut add = |f: Violation| faults.push(f);
        let dscp = self.dscp.as_deref().map(|t| Dscp::parse(&format!("{at}.dscp"), t));
        let dscp = dscp.and_then(|r| r.map_err(&mut add).ok());
        let burst = self.burst.as_deref().map(|t| Bytes::parse(&format!("{at}.burst"), t));
        let burst = burst.and_then(|r| r.map_err(&mut add).ok());
        let asked = self.priority.unwrap_or(i32::from(DEFAULT_PRIORITY));
        if !(0..=MAX_PRIORITY).contains(&asked) {
            let what = format!("is outside 0 to {MAX_PRIORITY}; higher goes first");
            add(Violation::new(format!("{at}.priority"), asked.to_string(), "PriorityRange", what));
        }
        let priority = u8::try_from(asked).unwrap_or(DEFAULT_PRIORITY);
        if let (Some(low), Some(high)) = (guarantee, ceiling)
            && low > high
        {
            let what = format!("is more than the ceiling, {high}: it could never be given");
            add(Violation::new(
                format!("{at}.guarantee"),
                low.to_string(),
                "GuaranteeAboveCeiling",
                what,
            ));
        }
        if let (Some(pod), Some(high)) = (pod_ceiling, ceiling)
            && pod > high
        {
            let what =
                format!("is more than the slice's ceiling, {high}: it would never be reached");
            add(Violation::new(
                format!("{at}.podCeiling"),
                pod.to_string(),
                "PodCeilingAboveCeiling",
                what,
            ));
        }
        (Qos { ceiling, guarantee, priority, dscp, burst, pod_ceiling }, faults)
    }
}

impl QosSource {
    /// Every fault of this object by itself; fields are named below `at`. Overrides must be for
    /// one of `clusters`, where those are known.
    pub fn faults(&self, at: &str, clusters: Option<&[String]>) -> Vec<Violation> {
        let mut faults = self.fields.read(at).1;
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        for (i, (cluster, fields)) in self.clusters.iter().enumerate() {
            let place = format!("{at}.clusters[{i}]");
            if let Some(first) = seen.insert(cluster, i) {
                let what = format!("is named twice; {at}.clusters[{first}] is the same");
                faults.push(Violation::new(
                    format!("{place}.name"),
                    cluster,
                    "DuplicateCluster",
                    what,
                ));
            }
            if let Some(known) = clusters.filter(|known| !known.contains(cluster)) {
                let what = format!("is not a cluster of this slice; {} are", known.join(", "));
                faults.push(Violation::new(
                    format!("{place}.name"),
                    cluster,
                    "UnknownCluster",
                    what,
                ));
            }
            // A limit for everywhere holds in the cluster, too: what does not fit together there is
            // told where the cluster differs.
            let alone = fields.read(&place).1;
            let together = fields.over(&self.fields).read(&place).1;
            let news = together.into_iter().filter(|f| {
                let here = fields.asks(&f.field, &place);
                here || matches!(f.reason, "GuaranteeAboveCeiling" | "PodCeilingAboveCeiling")
            });
            let everywhere = self.fields.read(&place).1;
            faults.extend(news.filter(|f| alone.contains(f) || !everywhere.contains(f)));
        }
        faults
    }

    /// What is asked for in one cluster.
    pub fn in_cluster(&self, cluster: &str) -> QosFields {
        let own = self.clusters.iter().find(|(name, _)| name == cluster);
        own.map_or_else(|| self.fields.clone(), |(_, fields)| fields.over(&self.fields))
    }
}

impl QosFields {
    /// Whether the field of this path below `at` is set here.
    fn asks(&self, path: &str, at: &str) -> bool {
        match path.strip_prefix(at).unwrap_or_default() {
            ".ceiling" => self.ceiling.is_some(),
            ".guarantee" => self.guarantee.is_some(),
            ".priority" => self.priority.is_some(),
            ".dscp" => self.dscp.is_some(),
            ".burst" => self.burst.is_some(),
            ".podCeiling" => self.pod_ceiling.is_some(),
            _ => false,
        }
    }
}

/// What a slice asks for in one cluster: its own word over its profile's.
pub fn effective(inline: &QosSource, profile: Option<&QosSource>, cluster: &str) -> QosFields {
    let own = inline.in_cluster(cluster);
    profile.map_or_else(|| own.clone(), |profile| own.over(&profile.in_cluster(cluster)))
}

/// Every fault of what a slice asks for, its profile's included as far as the two together make it.
pub fn faults(
    at: &str,
    inline: &QosSource,
    profile: Option<(&str, &QosSource)>,
    clusters: &[String],
) -> Vec<Violation> {
    let mut faults = inline.faults(at, Some(clusters));
    let Some((name, profile)) = profile else { return faults };
    // The first cluster that has a fault stands for all that have the same.
    for cluster in clusters {
        let whole = effective(inline, Some(profile), cluster).read(at).1;
        let told =
            |f: &Violation| faults.iter().any(|g| g.field == f.field && g.reason == f.reason);
        let news: Vec<Violation> = whole.into_iter().filter(|f| !told(f)).collect();
        faults.extend(news.into_iter().map(|f| {
            let message =
                format!("{} (with SliceQosProfile {name}, in cluster {cluster})", f.message);
            Violation { message, ..f }
        }));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(ceiling: &str, guarantee: &str) -> QosFields {
        let some = |t: &str| (!t.is_empty()).then(|| t.to_owned());
        QosFields { ceiling: some(ceiling), guarantee: some(guarantee), ..QosFields::default() }
    }

    fn reasons(faults: &[Violation]) -> Vec<(&str, &str)> {
        faults.iter().map(|f| (f.field.as_str(), f.reason)).collect()
    }

    #[test]
    fn every_fault_is_told_at_once() {
        let all = QosFields {
            ceiling: Some("10M".into()),
            guarantee: Some("20M".into()),
            priority: Some(8),
            dscp: Some("EF1".into()),
            burst: Some("1".into()),
            pod_ceiling: Some("11M".into()),
        };
        let faults = all.parse("spec.qos").unwrap_err();
        let expected = [
            ("spec.qos.dscp", "UnknownDscp"),
            ("spec.qos.burst", "SizeRange"),
            ("spec.qos.priority", "PriorityRange"),
            ("spec.qos.guarantee", "GuaranteeAboveCeiling"),
            ("spec.qos.podCeiling", "PodCeilingAboveCeiling"),
        ];
        assert_eq!(reasons(&faults), expected);
    }

    #[test]
    fn code_points_have_names_and_numbers() {
        for (text, number) in
            [("EF", 46), ("ef", 46), ("46", 46), ("AF41", 34), ("0", 0), ("63", 63)]
        {
            assert_eq!(Dscp::parse("f", text), Ok(Dscp(number)));
        }
        for text in ["64", "-1", "AF44", ""] {
            assert_eq!(Dscp::parse("f", text).unwrap_err().reason, "UnknownDscp", "{text}");
        }
    }

    #[test]
    fn a_cluster_may_differ_and_what_it_makes_impossible_is_told_there() {
        let source = QosSource {
            fields: fields("100M", "50M"),
            clusters: vec![
                ("west".into(), fields("40M", "")),
                ("moon".into(), fields("x", "")),
                ("west".into(), fields("", "")),
            ],
        };
        let known = ["east".to_owned(), "west".to_owned()];
        let expected = [
            ("q.clusters[0].guarantee", "GuaranteeAboveCeiling"),
            ("q.clusters[1].name", "UnknownCluster"),
            ("q.clusters[1].ceiling", "MalformedRate"),
            ("q.clusters[2].name", "DuplicateCluster"),
        ];
        assert_eq!(reasons(&source.faults("q", Some(&known))), expected);
        assert_eq!(source.in_cluster("west"), fields("40M", "50M"));
        assert_eq!(source.in_cluster("east"), fields("100M", "50M"));
    }

    #[test]
    fn a_fault_for_everywhere_is_not_repeated_for_clusters() {
        let fields = fields("10M", "50M");
        let source = QosSource { fields, clusters: vec![("west".into(), QosFields::default())] };
        assert_eq!(reasons(&source.faults("q", None)), [("q.guarantee", "GuaranteeAboveCeiling")]);
    }

    #[test]
    fn the_slices_own_word_goes_over_its_profile() {
        let profile = QosSource {
            fields: fields("100M", "50M"),
            clusters: vec![("west".into(), fields("200M", ""))],
        };
        let inline = QosSource { fields: fields("", "80M"), ..QosSource::default() };
        assert_eq!(effective(&inline, Some(&profile), "west"), fields("200M", "80M"));
        let inline = QosSource { fields: fields("60M", "70M"), ..QosSource::default() };
        assert_eq!(effective(&inline, Some(&profile), "west"), fields("60M", "70M"));
        let clusters = ["east".to_owned(), "west".to_owned()];
        let low = QosSource { fields: fields("40M", ""), ..QosSource::default() };
        let told = faults("q", &low, Some(("gold", &profile)), &clusters);
        assert_eq!(reasons(&told), [("q.guarantee", "GuaranteeAboveCeiling")]);
        assert!(told[0].message.contains("gold, in cluster east"), "{}", told[0].message);
    }
}
