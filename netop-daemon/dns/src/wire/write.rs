//! The bytes of an answer (RFC 1035, section 4).
//!
//! Bytes from outside are read by a library; what we say ourselves is written here: the library makes
//! a name of its own of every text first, which took longer than finding the answer.

use hickory_proto::op::{Edns, Header, HeaderCounts, Metadata, Query};
use hickory_proto::rr::RecordType;
use hickory_proto::serialize::binary::{BinEncodable as _, BinEncoder};
use slicewire_core::dns::{Data, NEGATIVE_TTL, Record};

/// Where the question's name is, behind the header.
const ASKED_AT: usize = 12;
/// The bits of a pointer to a name that was written before (section 4.1.4).
const POINTER: usize = 0xc000;
/// What is behind the first so many bytes of a message cannot be pointed to.
const POINTER_END: usize = 0x4000;
/// The class of all our records.
const IN: u16 = 1;

/// What an answer is made of.
pub(super) struct Parts<'a> {
    pub(super) metadata: Metadata,
    pub(super) query: Option<&'a Query>,
    /// The name in `query`, in lower case, with a dot behind each label and as many bytes as there.
    pub(super) asked: &'a str,
    pub(super) edns: Option<&'a Edns>,
    pub(super) answers: &'a [Record],
    pub(super) authority: Option<&'a Record>,
    pub(super) additional: &'a [Record],
}

impl Parts<'_> {
    /// Writes all of it; `None` when that takes more than `room`. Records with names that are too long
    /// to be names are left out.
    pub(super) fn write(&self, room: usize, out: &mut Vec<u8>) -> Option<()> {
        out.clear();
        let mut counts = HeaderCounts::default();
        self.header(out)?;
        if let Some(query) = self.query {
            for label in query.name() {
                out.push(u8::try_from(label.len()).ok()?);
                out.extend_from_slice(label);
            }
            out.push(0);
            out.extend(u16::from(query.query_type()).to_be_bytes());
            out.extend(u16::from(query.query_class()).to_be_bytes());
            counts.queries = 1;
        }
        let mut writer = Writer { asked: self.asked, room, out, targets: Vec::new(), next: 0 };
        counts.answers = writer.records(self.answers)?;
        counts.authorities = writer.records(self.authority)?;
        counts.additionals = writer.records(self.additional)?;
        if let Some(edns) = self.edns {
            writer.edns(edns, self.metadata.response_code.high());
            counts.additionals += 1;
        }
        let len = out.len();
        let HeaderCounts { queries, answers, authorities, additionals } = counts;
        for (count, at) in
            [queries, answers, authorities, additionals].into_iter().zip((4..).step_by(2))
        {
            out.get_mut(at..at + 2)?.copy_from_slice(&count.to_be_bytes());
        }
        (len <= room).then_some(())
    }

    /// The header, without counts.
    fn header(&self, out: &mut Vec<u8>) -> Option<()> {
        let header = Header { metadata: self.metadata, counts: HeaderCounts::default() };
        header.emit(&mut BinEncoder::new(out)).ok()
    }
}

struct Writer<'a> {
    asked: &'a str,
    room: usize,
    out: &'a mut Vec<u8>,
    /// Where in the message the names of servers are; their addresses follow in the same order.
    targets: Vec<(&'a str, usize)>,
    /// Of these, the one whose address was written last.
    next: usize,
}

impl<'a> Writer<'a> {
    /// Writes records; how many there are, or `None` when they take too much room.
    fn records(&mut self, records: impl IntoIterator<Item = &'a Record>) -> Option<u16> {
        let mut count = 0;
        for record in records {
            let begin = self.out.len();
            match self.record(record) {
                Some(()) => count += 1,
                None => self.out.truncate(begin),
            }
            if self.out.len() > self.room {
                return None;
            }
        }
        Some(count)
    }

    /// `None` for a record with something that cannot be written.
    fn record(&mut self, record: &'a Record) -> Option<()> {
        match &record.name {
            None => self.pointer(ASKED_AT)?,
            Some(name) => self.owner(name)?,
        }
        self.short(u16::from(kind(&record.data)));
        self.short(IN);
        self.out.extend(record.ttl.to_be_bytes());
        let begin = self.out.len();
        self.short(0);
        self.data(&record.data)?;
        let len = u16::try_from(self.out.len() - begin - 2).ok()?;
        self.out.get_mut(begin..begin + 2)?.copy_from_slice(&len.to_be_bytes());
        Some(())
    }

    fn data(&mut self, data: &'a Data) -> Option<()> {
        match data {
            Data::A(address) => self.out.extend(address.octets()),
            Data::Aaaa(address) => self.out.extend(address.octets()),
            Data::Srv { priority, weight, port, target } => {
                for number in [priority, weight, port] {
                    self.short(*number);
                }
                let at = self.out.len();
                // Not compressed (RFC 2782).
                self.labels(target, false)?;
                self.targets.push((target, at));
            }
            Data::Ptr(name) | Data::Ns(name) => self.name(name)?,
            Data::Txt(text) => {
                self.out.push(u8::try_from(text.len()).ok()?);
                self.out.extend_from_slice(text.as_bytes());
            }
            Data::Soa { zone, serial } => {
                self.name("ns.dns.slice.local")?;
                self.label("hostmaster")?;
                self.name(zone)?;
                // The times are for secondary servers, of which there are none; the last one is for
                // negative answers.
                for number in [*serial, 7200, 1800, 86_400, NEGATIVE_TTL] {
                    self.out.extend(number.to_be_bytes());
                }
            }
        }
        Some(())
    }

    /// A record's name, where it is not the question's.
    fn owner(&mut self, name: &str) -> Option<()> {
        let mut targets = self.targets.iter().skip(self.next);
        match targets.position(|(target, at)| *target == name && *at < POINTER_END) {
            Some(skipped) => {
                self.next += skipped;
                self.pointer(self.targets.get(self.next)?.1)
            }
            None => self.name(name),
        }
    }

    fn name(&mut self, name: &str) -> Option<()> {
        self.labels(name, true)
    }

    /// A name with dots between its labels; where it ends as the question does, it points there.
    fn labels(&mut self, name: &str, compressed: bool) -> Option<()> {
        if name.len() > slicewire_core::dns::MAX_NAME {
            return None;
        }
        let mut rest = name;
        loop {
            if let Some(at) = self.asked_at(rest).filter(|_| compressed) {
                return self.pointer(at);
            }
            let Some((label, more)) = rest.split_once('.') else { break };
            self.label(label)?;
            rest = more;
        }
        self.label(rest)?;
        self.out.push(0);
        Some(())
    }

    /// Where in the message the question's name ends with this one.
    fn asked_at(&self, name: &str) -> Option<usize> {
        let before = self.asked.strip_suffix('.')?.strip_suffix(name)?;
        (before.is_empty() || before.ends_with('.')).then_some(ASKED_AT + before.len())
    }

    fn label(&mut self, label: &str) -> Option<()> {
        let len = u8::try_from(label.len()).ok().filter(|len| (1..=63).contains(len))?;
        self.out.push(len);
        self.out.extend_from_slice(label.as_bytes());
        Some(())
    }

    fn pointer(&mut self, at: usize) -> Option<()> {
        self.short(u16::try_from(POINTER | at).ok()?);
        Some(())
    }

    fn short(&mut self, number: u16) {
        self.out.extend(number.to_be_bytes());
    }

    /// The pseudo-record of RFC 6891, section 6.1.
    fn edns(&mut self, edns: &Edns, high: u8) {
        self.out.push(0);
        self.short(u16::from(RecordType::OPT));
        self.short(edns.max_payload());
        self.out.extend([high, edns.version()]);
        self.short(u16::from(*edns.flags()));
        self.short(0);
    }
}

fn kind(data: &Data) -> RecordType {
    match data {
        Data::A(_) => RecordType::A,
        Data::Aaaa(_) => RecordType::AAAA,
        Data::Srv { .. } => RecordType::SRV,
        Data::Ptr(_) => RecordType::PTR,
        Data::Txt(_) => RecordType::TXT,
        Data::Ns(_) => RecordType::NS,
        Data::Soa { .. } => RecordType::SOA,
    }
}
