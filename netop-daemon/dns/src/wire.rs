//! Bytes of a question → bytes of its answer.

mod write;

use hickory_proto::op::{
    Edns, Header, Message, MessageType, Metadata, OpCode, Query, ResponseCode,
};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, BinEncodable, BinEncoder};
use slicewire_core::dns::{self, Answer, Asker, Code, Kind, Question, Record, View};

use write::Parts;

/// Most bytes of an answer over UDP without EDNS (RFC 1035, section 2.3.4).
const PLAIN: u16 = 512;
/// Most bytes of an answer over UDP: they are not fragmented on any path (DNS flag day 2020).
const UNFRAGMENTED: u16 = 1232;
/// Most records that may follow the question: EDNS, a signature, and room for what is to come.
const MOST_ADDITIONAL: u16 = 8;

/// How the question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// In a datagram: the answer is limited and can be truncated.
    Udp,
    /// In a stream.
    Tcp,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Answered, with records.
    Answered,
    /// Answered: no records of the type.
    NoData,
    /// Answered: no such name.
    NoName,
    /// Answered over UDP: ask again over TCP.
    Truncated,
    /// Answered: not in a zone of ours, or of another class.
    Refused,
    /// Answered: the node does not know its services yet.
    NotReady,
    /// Answered: not to be understood.
    Malformed,
    /// Answered: not a query.
    NotImplemented,
    /// Answered: a version of EDNS from the future.
    BadVersion,
    /// Not answered: too short to say whose question it is.
    Short,
    /// Not answered: it is an answer itself.
    NotQuestion,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Answered,
        Self::NoData,
        Self::NoName,
        Self::Truncated,
        Self::Refused,
        Self::NotReady,
        Self::Malformed,
        Self::NotImplemented,
        Self::BadVersion,
        Self::Short,
        Self::NotQuestion,
    ];

    /// A short stable word for metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::NoData => "no_data",
            Self::NoName => "no_name",
            Self::Truncated => "truncated",
            Self::Refused => "refused",
            Self::NotReady => "not_ready",
            Self::Malformed => "malformed",
            Self::NotImplemented => "not_implemented",
            Self::BadVersion => "bad_version",
            Self::Short => "dropped_short",
            Self::NotQuestion => "dropped_answer",
        }
    }
}

/// Answers a message into `out`, which is empty afterwards when nothing is to be sent.
///
/// `view` is `None` until the node knows its services: saying that there are none would be kept by
/// whoever asked. Nothing of `message` can make this fail: what cannot be read is answered as the RFCs
/// ask, or not at all.
pub fn respond(
    view: Option<&View>,
    asker: Asker<'_>,
    transport: Transport,
    message: &[u8],
    out: &mut Vec<u8>,
) -> Outcome {
    out.clear();
    let mut decoder = BinDecoder::new(message);
    let Ok(header) = Header::read(&mut decoder) else { return Outcome::Short };
    let asked = &header.metadata;
    if asked.message_type != MessageType::Query {
        return Outcome::NotQuestion;
    }
    let mut reply = Reply::to(asked);
    let outcome = if asked.op_code == OpCode::Query {
        match Asked::read(&mut decoder, &header) {
            Some(asked) => reply.fill(view, asker, asked),
            None => reply.ends(ResponseCode::FormErr, Outcome::Malformed),
        }
    } else {
        reply.ends(ResponseCode::NotImp, Outcome::NotImplemented)
    };
    reply.write(transport, out, outcome)
}

/// A question that could be read.
struct Asked {
    query: Query,
    edns: Option<Edns>,
}

impl Asked {
    /// Reads the rest of a query; `None` when it is not one question and what may follow it
    /// (RFC 9619).
    fn read(decoder: &mut BinDecoder<'_>, header: &Header) -> Option<Self> {
        let counts = header.counts;
        if (counts.queries, counts.answers, counts.authorities) != (1, 0, 0)
            || counts.additionals > MOST_ADDITIONAL
        {
            return None;
        }
        let query = Query::read(decoder).ok()?;
        let count = usize::from(counts.additionals);
        let (_, edns, _) =
            Message::read_records(decoder, count, true, header.metadata.op_code).ok()?;
        Some(Self { query, edns })
    }
}

struct Reply {
    metadata: Metadata,
    query: Option<Query>,
    /// The question's name, as [`lower`] has it.
    asked: String,
    edns: Option<Edns>,
    /// Most bytes the asker takes in a datagram.
    room: u16,
    answers: Vec<Record>,
    authority: Option<Record>,
    additional: Vec<Record>,
}

impl Reply {
    fn to(asked: &Metadata) -> Self {
        Self {
            metadata: Metadata::response_from_request(asked),
            query: None,
            asked: String::new(),
            edns: None,
            room: PLAIN,
            answers: Vec::new(),
            authority: None,
            additional: Vec::new(),
        }
    }

    fn ends(&mut self, code: ResponseCode, outcome: Outcome) -> Outcome {
        self.metadata.response_code = code;
        outcome
    }

    fn fill(&mut self, view: Option<&View>, asker: Asker<'_>, asked: Asked) -> Outcome {
        let Asked { query, edns } = asked;
        let kind = kind(query.query_type());
        let ours = matches!(query.query_class(), DNSClass::IN | DNSClass::ANY);
        self.asked = lower(query.name());
        self.query = Some(query);
        if let Some(theirs) = edns {
            self.room = theirs.max_payload().clamp(PLAIN, UNFRAGMENTED);
            let mut edns = Edns::new();
            // The bit is copied although nothing here is signed (RFC 3225, section 3).
            edns.set_max_payload(UNFRAGMENTED).set_dnssec_ok(theirs.flags().dnssec_ok);
            self.edns = Some(edns);
            if theirs.version() > 0 {
                return self.ends(ResponseCode::BADVERS, Outcome::BadVersion);
            }
        }
        if !ours {
            return self.ends(ResponseCode::Refused, Outcome::Refused);
        }
        let Some(view) = view else {
            return self.ends(ResponseCode::ServFail, Outcome::NotReady);
        };
        let labels: Vec<&str> = self.asked.split_terminator('.').collect();
        let answer = dns::answer(view, &Question { labels: &labels, kind }, asker);
        self.take(answer)
    }

    fn take(&mut self, answer: Answer) -> Outcome {
        self.metadata.authoritative = answer.code != Code::Refused;
        self.answers = answer.records;
        self.authority = answer.authority;
        self.additional = answer.additional;
        match answer.code {
            Code::NoError if self.answers.is_empty() => Outcome::NoData,
            Code::NoError => Outcome::Answered,
            Code::NxDomain => self.ends(ResponseCode::NXDomain, Outcome::NoName),
            Code::Refused => self.ends(ResponseCode::Refused, Outcome::Refused),
        }
    }

    /// Writes all of it; where that is too much, without what is only helpful; where that is still
    /// too much, the word that there is more (RFC 2181, section 9).
    fn write(mut self, transport: Transport, out: &mut Vec<u8>, outcome: Outcome) -> Outcome {
        let room = match transport {
            Transport::Udp => self.room,
            Transport::Tcp => u16::MAX,
        };
        if self.emit(room, out) {
            return outcome;
        }
        self.additional.clear();
        if self.emit(room, out) {
            return outcome;
        }
        self.answers.clear();
        self.authority = None;
        self.metadata.truncation = true;
        if self.emit(room, out) { Outcome::Truncated } else { self.give_up(out) }
    }

    /// Whether all of it fits.
    fn emit(&self, room: u16, out: &mut Vec<u8>) -> bool {
        let parts = Parts {
            metadata: self.metadata,
            query: self.query.as_ref(),
            asked: &self.asked,
            edns: self.edns.as_ref(),
            answers: &self.answers,
            authority: self.authority.as_ref(),
            additional: &self.additional,
        };
        parts.write(usize::from(room), out).is_some()
    }

    /// A header alone: for a question that was read and cannot be written.
    fn give_up(mut self, out: &mut Vec<u8>) -> Outcome {
        out.clear();
        self.metadata.truncation = false;
        self.metadata.response_code = ResponseCode::ServFail;
        let header = Header { metadata: self.metadata, counts: Default::default() };
        if header.emit(&mut BinEncoder::new(out)).is_err() {
            out.clear();
        }
        Outcome::Malformed
    }
}

fn kind(asked: RecordType) -> Kind {
    match asked {
        RecordType::A => Kind::A,
        RecordType::AAAA => Kind::Aaaa,
        RecordType::SRV => Kind::Srv,
        RecordType::PTR => Kind::Ptr,
        RecordType::TXT => Kind::Txt,
        RecordType::SOA => Kind::Soa,
        RecordType::NS => Kind::Ns,
        RecordType::ANY => Kind::Any,
        _ => Kind::Other,
    }
}

/// A name in lower case, with a dot behind each label; bytes that none of our names has become `?`,
/// which none has either.
fn lower(name: &Name) -> String {
    let lower = |byte: &u8| match byte {
        b'-' | b'_' => *byte,
        byte if byte.is_ascii_alphanumeric() => byte.to_ascii_lowercase(),
        _ => b'?',
    };
    let mut text = Vec::with_capacity(name.len() + 1);
    for label in name {
        text.extend(label.iter().map(lower));
        text.push(b'.');
    }
    // All of it is ASCII.
    String::from_utf8(text).unwrap_or_default()
}

#[cfg(test)]
mod tests;
