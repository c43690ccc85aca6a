"""Functions that a query of a user may call: those that compute on their arguments and reach nothing else.

A list of what is allowed, because what must be forbidden grows with every release of ClickHouse (files, URLs,
dictionaries, other tables, settings, the host's facts, sleeping).
"""

from __future__ import annotations

import re

_SCALAR = """
plus minus multiply divide intDiv intDivOrZero modulo moduloOrZero positiveModulo negate abs gcd lcm
max2 min2 equals notEquals less greater lessOrEquals greaterOrEquals and or not xor if multiIf
caseWithExpression isNull isNotNull coalesce ifNull nullIf assumeNotNull toNullable isNaN isInfinite
isFinite ifNotFinite in notIn nullIn notNullIn exists tuple tupleElement untuple array arrayElement map
mapKeys mapValues lambda identity exp exp2 exp10 log log2 log10 log1p sqrt cbrt pow power sin cos tan
asin acos atan atan2 sinh cosh tanh asinh acosh atanh hypot sign degrees radians e pi erf erfc lgamma
tgamma sigmoid factorial floor ceil ceiling round roundBankers trunc truncate roundDown roundAge
roundDuration greatest least clamp bitAnd bitOr bitXor bitNot bitShiftLeft bitShiftRight bitTest
bitCount like notLike ilike notILike match multiMatchAny extract extractAll position
positionCaseInsensitive locate startsWith endsWith countSubstrings hasToken length lengthUTF8 empty
notEmpty lower upper lowerUTF8 upperUTF8 reverse concat concatWithSeparator substring substringUTF8 left
right trimLeft trimRight trimBoth replaceOne replaceAll replace replaceRegexpOne replaceRegexpAll
splitByChar splitByString arrayStringConcat format toString leftPad rightPad CAST _CAST accurateCast
accurateCastOrNull toInt8 toInt16 toInt32 toInt64 toInt128 toUInt8 toUInt16 toUInt32 toUInt64 toFloat32
toFloat64 toInt64OrNull toFloat64OrNull toDate toDateTime toDateTime64 toDecimal64 toTypeName
fromUnixTimestamp fromUnixTimestamp64Milli fromUnixTimestamp64Second toUnixTimestamp
toUnixTimestamp64Milli now now64 today yesterday toYear toMonth toDayOfMonth toDayOfWeek toHour toMinute
toSecond toStartOfInterval toStartOfYear toStartOfMonth toStartOfWeek toStartOfDay toStartOfHour
toStartOfMinute toStartOfSecond dateDiff dateTrunc formatDateTime addSeconds addMinutes addHours addDays
subtractSeconds subtractMinutes subtractHours subtractDays toIntervalMillisecond toIntervalSecond
toIntervalMinute toIntervalHour toIntervalDay toIntervalWeek toIntervalMonth arrayMap arrayFilter
arrayCount arraySum arrayAvg arrayMin arrayMax arraySort arrayReverseSort arrayReverse arrayConcat
arraySlice arrayExists arrayAll arrayFirst arrayFirstIndex arrayLast arrayLastIndex arrayCumSum
arrayDifference arrayDistinct arrayUniq arrayEnumerate arrayZip arrayJoin arrayPushBack arrayPushFront
arrayResize arrayProduct arrayDotProduct arrayFlatten arrayFold has hasAll hasAny indexOf range
cityHash64 xxHash64 sipHash64 halfMD5 runningDifference neighbor rowNumberInAllBlocks
"""
_WINDOW = """
row_number rank dense_rank percent_rank cume_dist ntile lag lead lagInFrame leadInFrame first_value
last_value nth_value
"""
_AGGREGATES = """
count min max sum sumKahan avg avgWeighted any anyLast first_value last_value argMin argMax stddevPop
stddevSamp varPop varSamp stddevPopStable stddevSampStable varPopStable varSampStable covarPop covarSamp
corr skewPop skewSamp kurtPop kurtSamp median medianExact quantile quantiles quantileExact
quantilesExact quantileExactInclusive quantileExactExclusive quantilesExactInclusive quantileTDigest
quantilesTDigest quantileExactWeighted quantileGK uniq uniqExact uniqCombined uniqHLL12 groupArray
groupUniqArray groupArraySample groupArrayMovingAvg groupArrayMovingSum groupArraySorted groupBitAnd
groupBitOr groupBitXor topK entropy simpleLinearRegression deltaSum deltaSumTimestamp boundingRatio
exponentialMovingAverage exponentialTimeDecayedAvg lttb largestTriangleThreeBuckets histogram
kolmogorovSmirnovTest mannWhitneyUTest studentTTest welchTTest
"""

ALLOWED = frozenset(name.lower() for names in (_SCALAR, _WINDOW, _AGGREGATES) for name in names.split())
_COMBINED = re.compile(
    rf"({'|'.join(sorted((name.lower() for name in _AGGREGATES.split()), key=len, reverse=True))})"
    "(if|array|distinct|orderby|ornull|ordefault|argmin|argmax)+"
)


def is_allowed(name: str) -> bool:
    """Whether a query may call this function."""
    lowered = name.lower()
    return lowered in ALLOWED or _COMBINED.fullmatch(lowered) is not None
