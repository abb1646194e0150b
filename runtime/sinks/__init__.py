"""Where answers go: files, a webhook, MQTT, a window, or a function of the user's own."""

from pgn_edge.runtime.record import AnswerRecord
from pgn_edge.runtime.sinks.base import Counts, Sink
from pgn_edge.runtime.sinks.jsonl import JsonlSink
from pgn_edge.runtime.sinks.local import CallbackSink, WindowSink
from pgn_edge.runtime.sinks.mqtt import MqttOptions, MqttSink
from pgn_edge.runtime.sinks.video import VideoSink
from pgn_edge.runtime.sinks.webhook import WebhookOptions, WebhookSink

__all__ = [
    "AnswerRecord",
    "CallbackSink",
    "Counts",
    "JsonlSink",
    "MqttOptions",
    "MqttSink",
    "Sink",
    "VideoSink",
    "WebhookOptions",
    "WebhookSink",
    "WindowSink",
]
