"""A camera that speaks RTSP: GStreamer's own server, with a pattern that tells which frame it is and when it was made.

Run by the system's Python, which has GStreamer's bindings: `python3 rtsp_server.py PORT WIDTH HEIGHT FPS [PASSWORD]`,
with the user `viewer`. It prints
`ready` once it listens. The upper half of each frame is its number, the lower half the monotonic clock in milliseconds,
both modulo 65536, as 16 bars from the highest bit to the lowest, white for 1.
"""

import sys
import time

BITS = 16
BLACK, WHITE, GREY = 16, 235, 128


def row(number, width):
    """One line of the luma plane."""
    bar = width // BITS
    return b"".join(bytes([WHITE if number >> bit & 1 else BLACK]) * bar for bit in range(BITS - 1, -1, -1))


def picture(number, width, height):
    """One frame as I420."""
    clock_ms = int(time.monotonic() * 1e3)
    luma = row(number, width) * (height // 2) + row(clock_ms, width) * (height // 2)
    return luma + bytes([GREY]) * (width * height // 2)


def main():
    """Serve at rtsp://127.0.0.1:PORT/camera until killed."""
    import gi

    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import GLib, Gst, GstRtspServer

    port, width, height, fps = (int(argument) for argument in sys.argv[1:5])
    Gst.init(None)
    number = 0

    def push(appsrc):
        nonlocal number
        frame = Gst.Buffer.new_wrapped(picture(number, width, height))
        number += 1
        return appsrc.emit("push-buffer", frame) == Gst.FlowReturn.OK

    def configure(factory, media):
        appsrc = media.get_element().get_by_name_recurse_up("frames")
        GLib.timeout_add(1000 // fps, push, appsrc)

    caps = f"video/x-raw,format=I420,width={width},height={height},framerate={fps}/1"
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(
        f"( appsrc name=frames is-live=true do-timestamp=true format=time caps={caps} "
        f"! x264enc tune=zerolatency speed-preset=ultrafast key-int-max={max(fps // 2, 1)} bitrate=2000 "
        "! rtph264pay name=pay0 )"
    )
    factory.set_shared(True)
    factory.connect("media-configure", configure)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(str(port))
    if len(sys.argv) > 5:
        roles = GstRtspServer.RTSPPermissions()
        for right in ("access", "construct"):
            roles.add_permission_for_role("viewer", f"media.factory.{right}", True)
        factory.set_permissions(roles)
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", "viewer")
        auth = GstRtspServer.RTSPAuth()
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic("viewer", sys.argv[5]), token)
        server.set_auth(auth)
    server.get_mount_points().add_factory("/camera", factory)
    if not server.attach(None):
        sys.exit(f"port {port} is taken")
    print("ready", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
