# SPDX-License-Identifier: Apache-2.0
#
# rtspserver.py FIRST LAST ADDRESS... - GStreamer's RTSP server with a radio station, at ports 554 and 7070 of each of
# these addresses. RTP and RTCP come from that address, too, and from ports of this range. It prints who plays.
import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer

RADIO = "( audiotestsrc is-live=true ! audio/x-raw,rate=8000,channels=1 ! alawenc ! rtppcmapay name=pay0 pt=8 )"


def serve(address, port, first, last):
    pool = GstRtspServer.RTSPAddressPool()
    pool.add_range(address, address, first, last, 0)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(RADIO)
    factory.set_address_pool(pool)
    server = GstRtspServer.RTSPServer(address=address, service=port)
    server.get_mount_points().add_factory("/radio", factory)
    server.connect("client-connected", connected)
    if server.attach(None) == 0:
        sys.exit("cannot listen at %s port %s" % (address, port))
    return server


def connected(_, client):
    client.connect("play-request", lambda c, _: print("plays to", c.get_connection().get_ip(), flush=True))


Gst.init(None)
first, last = int(sys.argv[1]), int(sys.argv[2])
servers = [serve(address, port, first, last) for address in sys.argv[3:] for port in ("554", "7070")]
GLib.MainLoop().run()
