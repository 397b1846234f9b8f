"""Packets to streams: the rooms that live by PyAV."""
