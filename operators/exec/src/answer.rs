//! The answer to a message: where it was said, or to who asked.

use bytes::Bytes;
use libeevee::operator::Operator;
use libeevee::{Code, Document, Error, ErrorKind, Message, Outgoing, chat};

use crate::settings::ExecSettings;

/// Whether an answer to it has a place to go to.
pub(crate) fn is_possible(message: &Message) -> bool {
    message.reply_address.is_some() || chat::reply(message, "").is_ok()
}

/// Publishes an answer; confirmed, so that nothing is acknowledged whose answer could still be lost.
///
/// With `once`, the bus drops a second answer to the same message: it knows it by the message's id.
pub(crate) async fn publish(
    op: &Operator<ExecSettings>,
    message: &Message,
    body: Bytes,
    once: bool,
) -> Result<(), Error> {
    if message.reply_address.is_some() {
        return op.client().reply_to(message, Document { body, ..Document::default() }).await;
    }
    let document = chat::reply(message, "").map_err(|error| Error::other(error.to_string()))?;
    let mut answer = Outgoing::from(Document { body, ..document }).answering(message);
    if once {
        (answer.epoch, answer.sequence) = (message.id, 1);
    }
    op.publish_confirmed(answer).await.map(drop)
}

/// Whether what fails with this fails with it every time.
pub(crate) fn is_final(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Invalid | ErrorKind::TooLarge => true,
        ErrorKind::Refused(code) => matches!(code, Code::Denied | Code::Loop | Code::BadHeader | Code::DuplicateHeader),
        _ => false,
    }
}
