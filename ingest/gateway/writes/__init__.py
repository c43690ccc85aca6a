"""Points on their way in: parsed, judged, admitted, appended."""
