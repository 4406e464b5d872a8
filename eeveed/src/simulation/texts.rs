//! What is said in a simulation: filters, permissions, documents; and the naive reading of them.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::LazyLock;

use libeevee::filter::{Fields, Filter};
use libeevee::module::Module;
use libeevee::wire::EncodedDocument;
use libeevee::{Document, Headers};

use crate::core::LoadedModule;

/// Operators, and then people.
pub(super) const IDS: [&str; 5] = ["irc", "dice", "log", "watch", "xmpp"];
pub(super) const ANN: &str = "user/ann";
pub(super) const ROOT: &str = "user/root";

pub(super) const FILTERS: [&str; 12] = [
    "*",
    "type=chat.message",
    "type=chat.message,channel=#a",
    "type=chat.message,channel in (#a,#b)",
    "channel=#b,!bot",
    "type~chat.*,channel!=#c",
    "source=irc",
    "source in (irc,dice),type=log.record",
    "level<4",
    "bot",
    "hops>0",
    "type=log.record,level>=3,source!=log",
];

const PERMITS: [Option<&[&str]>; 5] =
    [None, Some(&[]), Some(&["type=chat.message"]), Some(&["channel=#a", "type=log.record"]), Some(&["*"])];

/// A number in [`PERMITS`]: for people, and operators whose file says nothing.
pub(super) const USUAL: usize = 0;
pub(super) const PERMIT_COUNT: usize = PERMITS.len();

static PARSED: LazyLock<Vec<Filter>> = LazyLock::new(|| FILTERS.iter().map(|text| text.parse().unwrap()).collect());
static ADMITTED: LazyLock<Vec<Option<Vec<Filter>>>> = LazyLock::new(|| {
    PERMITS.iter().map(|list| list.map(|texts| texts.iter().map(|text| text.parse().unwrap()).collect())).collect()
});

/// A message as filters see it, in the model's own words.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) id: u64,
    pub(super) source: &'static str,
    pub(super) hops: u8,
    pub(super) headers: Headers,
    pub(super) document: EncodedDocument,
}

impl Fields for Message {
    fn field(&self, key: &str) -> Option<Cow<'_, str>> {
        match key {
            "id" => Some(self.id.to_string().into()),
            "source" => Some(self.source.into()),
            "hops" => Some(self.hops.to_string().into()),
            "timestamp" | "cause" => None,
            key => self.headers.get(key).map(Into::into),
        }
    }
}

impl Message {
    /// What the bus says of an operator by itself; no filter here looks at more of it.
    pub(super) fn announcement(id: u64) -> Rc<Self> {
        let headers = Headers::try_from([("type", "operator.state")]).unwrap();
        let document = EncodedDocument::from(&Document { headers: headers.clone(), body: Vec::new().into() });
        Rc::new(Self { id, source: "eeveed", hops: 0, headers, document })
    }

    pub(super) fn matches(&self, filters: &[usize]) -> bool {
        filters.iter().any(|at| PARSED[*at].matches(self))
    }

    /// The model's own reading of a permission; no message here has a type below `control`.
    pub(super) fn is_permitted(&self, permit: usize) -> bool {
        ADMITTED[permit].as_ref().is_none_or(|filters| filters.iter().any(|filter| filter.matches(self)))
    }
}

/// The module file of an operator with these permissions to publish and to receive.
pub(super) fn module(id: &str, (publish, receive): (usize, usize)) -> LoadedModule {
    let list = |name: &str, permit: Option<&[&str]>| {
        permit.map(|filters| format!("{name} = {filters:?}\n")).unwrap_or_default()
    };
    let text = format!("[bus]\n{}{}", list("may-publish", PERMITS[publish]), list("may-receive", PERMITS[receive]));
    let path = format!("{id}.toml");
    let file = Module::parse(&id.parse().unwrap(), &path, &text).unwrap();
    LoadedModule { file, path, text }
}

pub(super) fn some_filters(random: &mut fastrand::Rng) -> Vec<usize> {
    (0..random.usize(1..3)).map(|_| random.usize(0..FILTERS.len())).collect()
}

/// Something to publish.
pub(super) fn some_document(random: &mut fastrand::Rng) -> (Headers, EncodedDocument) {
    let mut headers = Headers::new();
    headers.set("type", ["chat.message", "log.record", "other"][random.usize(0..3)]).unwrap();
    if random.bool() {
        headers.set("channel", ["#a", "#b", "#c"][random.usize(0..3)]).unwrap();
    }
    if random.u8(0..4) == 0 {
        headers.set("bot", "1").unwrap();
    }
    if random.bool() {
        headers.set("level", random.u8(0..8).to_string()).unwrap();
    }
    let body = vec![b'x'; random.usize(0..500)];
    let document = EncodedDocument::from(&Document { headers: headers.clone(), body: body.into() });
    (headers, document)
}
