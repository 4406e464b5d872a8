//! Hello and its answer: who is this, proved before the core hears of it.

use std::rc::Rc;

use libeevee::wire::{Code, Content, Frame, Hello, Module, Refusal, Role, VERSION, Welcome};
use libeevee::{OperatorId, Token, wire};

use crate::core::{DIAGNOSIS_BYTES_MAX, Identity, LoadedModule, Peer, refusal, shortened};
use crate::hub::Hub;
use crate::people::Rights;
use crate::{config, files};

/// What a Hello leads to.
pub(crate) enum Outcome {
    /// A session for the core.
    Join { identity: Identity, peer: Peer, module: Option<LoadedModule> },
    /// A launcher: it gets this one answer, and holds nothing.
    Launch(Frame),
}

/// What the kernel says of a peer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kernel {
    pub(crate) uid: u32,
    pub(crate) pid: Option<i32>,
}

/// Names and programs in logs and status come from peers: one line, and short.
const PROGRAM_CHARS_MAX: usize = 80;

/// Judges the first frame of a connection.
///
/// # Errors
/// The refusal to send before the connection is closed.
pub(crate) async fn judge(hub: &Rc<Hub>, kernel: Kernel, frame: Frame) -> Result<Outcome, Refusal> {
    let Content::Hello(hello) = frame.content else {
        return Err(refusal(Code::Auth, format!("the first frame has to be Hello, not kind {}", frame.content.kind())));
    };
    if hello.version_min > VERSION || hello.version_max < VERSION {
        let text = format!(
            "the client speaks versions {} to {}, the bus {VERSION}; install libeevee and eeveed of one release",
            hello.version_min, hello.version_max
        );
        return Err(refusal(Code::Version, text));
    }
    let program = hello.program.chars().filter(|c| !c.is_control()).take(PROGRAM_CHARS_MAX).collect::<String>().into();
    let peer = Peer { uid: kernel.uid, pid: kernel.pid, program, instance: hello.instance };
    match Role::from_number(hello.role) {
        Some(Role::Operator) => {
            let id = prove_operator(hub, kernel, &hello)?;
            let module = read_module(hub, &id).await?;
            Ok(Outcome::Join { identity: Identity::Operator(id), peer, module })
        }
        Some(Role::Launcher) => {
            let id = prove_operator(hub, kernel, &hello)?;
            let module = read_module(hub, &id).await?;
            Ok(Outcome::Launch(launch(module)))
        }
        Some(Role::Tool) => Ok(Outcome::Join { identity: prove_person(hub, kernel).await?, peer, module: None }),
        Some(Role::ReloadHelper) => {
            let identity = prove_helper(hub, kernel, &hello)?;
            Ok(Outcome::Join { identity, peer, module: None })
        }
        None => Err(refusal(Code::Auth, format!("role {} is unknown", hello.role))),
    }
}

fn named(hello: &Hello) -> Result<Option<OperatorId>, Refusal> {
    let parsed = hello.id.as_deref().map(str::parse).transpose();
    parsed.map_err(|error: libeevee::IdError| refusal(Code::Auth, error.to_string()))
}

fn prove_operator(hub: &Rc<Hub>, kernel: Kernel, hello: &Hello) -> Result<OperatorId, Refusal> {
    let named = named(hello)?;
    if hello.token.is_empty() && hub.places.development && is_self(kernel.uid) {
        return named.ok_or_else(|| refusal(Code::Auth, "an operator on a development bus has to name its id"));
    }
    let token = Token::parse(&hello.token).map_err(|error| {
        let text = format!(
            "an operator is known by the credential bus-token that PID 1 loads for its unit, and this one is not good: {error}"
        );
        refusal(Code::Auth, text)
    })?;
    if !hub.key.verify(&token) {
        return Err(refusal(Code::Auth, "this token was not issued by this bus; restart the operator's unit"));
    }
    match named {
        Some(named) if named != *token.id() => {
            Err(refusal(Code::Auth, format!("the token is that of {}, not of {named}", token.id())))
        }
        _ => Ok(token.id().clone()),
    }
}

async fn prove_person(hub: &Rc<Hub>, kernel: Kernel) -> Result<Identity, Refusal> {
    let person = |name: String, admin| Ok(Identity::Person { name: name.into(), admin });
    let rights = hub.people.rights_of(kernel.uid).await;
    if hub.places.development && is_self(kernel.uid) {
        return match rights {
            Rights::Admin(name) | Rights::User(name) => person(name, true),
            Rights::Daemon | Rights::Nobody(_) => person(format!("uid-{}", kernel.uid), true),
        };
    }
    match rights {
        Rights::Admin(name) => person(name, true),
        Rights::User(name) => person(name, false),
        Rights::Daemon => Ok(Identity::Daemon),
        Rights::Nobody(why) => Err(refusal(Code::Auth, why)),
    }
}

fn prove_helper(hub: &Rc<Hub>, kernel: Kernel, hello: &Hello) -> Result<Identity, Refusal> {
    let Some(id) = named(hello)? else {
        return Err(refusal(Code::Auth, "a reload helper has to name the operator"));
    };
    match hub.with_core(|core| core.uid_of(&id)) {
        Some(uid) if uid == kernel.uid => Ok(Identity::ReloadHelper(id)),
        Some(_) => Err(refusal(Code::Auth, format!("uid {} is not the uid of operator {id}", kernel.uid))),
        None => Err(refusal(
            Code::NotConnected,
            format!(
                "operator {id} is not connected, so that there is nothing to reload; its file is read at its next start"
            ),
        )),
    }
}

fn is_self(uid: u32) -> bool {
    uid == nix::unistd::geteuid().as_raw()
}

/// The operator's module file. On a development bus it may be absent.
async fn read_module(hub: &Rc<Hub>, id: &OperatorId) -> Result<Option<LoadedModule>, Refusal> {
    let directory = files::modules_path(&hub.places.config);
    if hub.places.development && !config::has_module(&directory, id) {
        return Ok(None);
    }
    match files::load_module(&hub.places.config, id).await {
        Ok(module) => Ok(Some(module)),
        Err(diagnosis) => Err(refusal(Code::Refused, shortened(&diagnosis.to_string(), DIAGNOSIS_BYTES_MAX))),
    }
}

fn launch(module: Option<LoadedModule>) -> Frame {
    let module = module.map(|loaded| Module { kind: loaded.file.kind.clone(), path: loaded.path, text: loaded.text });
    Frame::new(
        0,
        Content::Welcome(Welcome {
            version: VERSION,
            identity: String::new(),
            session: 0,
            boot: 0,
            last_id: 0,
            frame_bytes_max: wire::limits::FRAME_BYTES_MIN as u32,
            credit_messages: 0,
            credit_bytes: 0,
            halted: false,
            module,
            capabilities: Vec::new(),
        }),
    )
}
